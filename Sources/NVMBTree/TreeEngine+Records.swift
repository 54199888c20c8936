import CNVM
import NVMRegion
import NVMalloc

/// A record in the mapping whose lengths were checked to lie inside the region.
struct Record {
  let base: UnsafeRawPointer
  let keyLength: Int
  let valueLength: Int

  @inline(__always) var key: UnsafeRawPointer { base + RecordLayout.headerSize }
  @inline(__always) var value: UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(start: key + keyLength, count: valueLength)
  }
}

/// Retired records and separators, oldest first.
struct Retired: Sendable {
  // A tail pointer is owned by its item.
  enum Item: @unchecked Sendable {
    case record(Offset)
    case separator(UnsafeMutableRawPointer)
  }
  /// `stamp`: what has to be settled first.
  var items: [(epoch: UInt64, stamp: UInt64, item: Item)] = []
}

extension TreeEngine {
  /// The record at an offset, or nil when it cannot be one: an optimistic reader may hold any word.
  @inline(__always) func record(at word: UInt64) -> Record? {
    let offset = Offset(rawValue: word)
    guard word & 7 == 0, region.contains(offset, count: RecordLayout.headerSize) else { return nil }
    let base = UnsafeRawPointer(region.pointer(to: offset))
    let first = nvm_load_relaxed(base)
    let keyLength = Int(first >> 32)
    let valueLength = nvm_load_relaxed(base + RecordLayout.valueLength)
    guard keyLength <= RecordLayout.maximumKeyLength, valueLength <= UInt64(RecordLayout.maximumValueLength),
      region.contains(offset, count: RecordLayout.headerSize + keyLength + Int(valueLength))
    else { return nil }
    return Record(base: base, keyLength: keyLength, valueLength: Int(valueLength))
  }

  func recordChecksum(_ record: Record, at offset: Offset) -> UInt32 {
    let start = nvm_fold32(nvm_mix2(seed, offset.rawValue, 0x5EC0))
    return nvm_crc32c(
      start, record.base + 4, RecordLayout.headerSize - 4 + record.keyLength + record.valueLength)
  }

  func isIntact(_ record: Record, at offset: Offset) -> Bool {
    UInt32(truncatingIfNeeded: nvm_load_relaxed(record.base)) == recordChecksum(record, at: offset)
  }

  /// The record that a slot refers to, if it does. Only for slots read under a lock, or checked since.
  @inline(__always) func recordOffset(_ head: UInt64, _ word: UInt64) -> Offset? {
    if isLong(head) { return Offset(rawValue: word) }
    if valuesAreBytes, let record = SlotValue.record(word) { return record }
    return nil
  }

  /// Brings the first lines of the record that a slot leads to, if it does, on their way to the cache.
  @usableFromInline
  func prefetchRecord(_ head: UInt64, _ word: UInt64) {
    guard let offset = recordOffset(head, word), region.contains(offset, count: 192) else { return }
    let base = region.pointer(to: offset)
    nvm_prefetch(base)
    nvm_prefetch(base + 64)
    nvm_prefetch(base + 128)
  }

  /// Allocates and writes a record; on return it is on its way to the medium, and durable (header of the block
  /// included) at this thread's next `order` or `fence`. Until a leaf refers to it, a crash leaves a block that
  /// names this tree and an earlier opening, which recovery sweeps.
  func makeRecord(key: SearchKey, value: UnsafeRawBufferPointer) throws(NVMError) -> Offset {
    let keyLength = key.bytes == nil ? 0 : key.count
    guard keyLength <= RecordLayout.maximumKeyLength else {
      throw NVMError(
        code: .tooLarge,
        message: "A key of \(keyLength) bytes is too long: \(RecordLayout.maximumKeyLength) is the limit.",
        path: region.path)
    }
    let size = RecordLayout.headerSize + keyLength + value.count
    let at = try heap.allocate(byteCount: size, tag: .treeRecord, owner: owner, durability: .deferred)
    var crc = nvm_fold32(nvm_mix2(seed, at.rawValue, 0x5EC0))
    withUnsafeTemporaryAllocation(byteCount: 12, alignment: 4) { lengths in
      lengths.storeBytes(of: UInt32(keyLength), as: UInt32.self)
      lengths.storeBytes(of: UInt64(value.count), toByteOffset: 4, as: UInt64.self)
      crc = nvm_crc32c(crc, lengths.baseAddress!, 12)
    }
    if keyLength > 0 { crc = nvm_crc32c(crc, key.bytes!, keyLength) }
    if let p = value.baseAddress { crc = nvm_crc32c(crc, p, value.count) }
    region.store(UInt64(crc) | UInt64(keyLength) << 32, at: at)
    region.store(UInt64(value.count), at: at + RecordLayout.valueLength)
    if keyLength > 0 {
      region.write(
        UnsafeRawBufferPointer(start: key.bytes, count: keyLength), at: at + RecordLayout.headerSize)
    }
    // Small records, and the first line of large ones, which they share with the block's header, take cached
    // stores; the rest may go past the cache.
    let valueAt = at + (RecordLayout.headerSize + keyLength)
    let head = min(value.count, 64 - (valueAt.bytes & 63))
    region.write(UnsafeRawBufferPointer(rebasing: value[..<head]), at: valueAt)
    region.flush(at, count: valueAt - at + head)
    region.writeFlushed(UnsafeRawBufferPointer(rebasing: value[head...]), at: valueAt + head)
    return at
  }

  /// Frees a record that no leaf ever referred to.
  func discardRecord(_ offset: Offset) {
    // A failure leaves the block for the next recovery to sweep.
    try? heap.deallocate(offset, durability: .deferred)
  }

  /// Hands over a record or separator that was unlinked: freed when no reader can hold it, and the change of this thread
  /// that unlinked it is durable.
  func retire(_ item: Retired.Item) {
    let epoch = space.epochs.advance()
    let stamp = unlinkStamp
    let due = retired.withLock { retired -> [Retired.Item] in
      retired.items.append((epoch, stamp, item))
      return retired.items.count & 31 == 0 ? takeDue(&retired, before: space.epochs.oldestPinned()) : []
    }
    free(due)
  }

  private func takeDue(_ retired: inout Retired, before oldest: UInt64) -> [Retired.Item] {
    let n =
      retired.items.firstIndex { $0.epoch >= oldest || !region.isSettled(stamp: $0.stamp) }
      ?? retired.items.count
    defer { retired.items.removeFirst(n) }
    return retired.items[..<n].map(\.item)
  }

  private func free(_ items: [Retired.Item]) {
    for item in items {
      switch item {
      case .record(let offset): discardRecord(offset)
      case .separator(let tail): tail.deallocate()
      }
    }
  }

  /// Frees what no reader holds any more. Called at close, when there should be none.
  func reclaim() {
    let oldest = space.epochs.oldestPinned()
    free(retired.withLock { takeDue(&$0, before: oldest) })
  }

  /// How many unlinked records and separators wait for readers.
  var waitingForReaders: Int { retired.withLock { $0.items.count } }
}
