import CNVM

/// Reads the batches of a journal, one after the other, from a place where one stands.
///
/// What it gives out has been checked: position, incarnation, the chain and the check over all its bytes. Where a
/// batch does not fit, the journal ends: the power failed while it was being written.
final class JournalReader {
  private let area: JournalArea
  private let incarnation: UInt64
  private let key: UInt64
  private(set) var position: UInt64
  /// The check of the batch before `position`.
  private(set) var chain: UInt64
  private let limit: UInt64
  private var buffer: UnsafeMutableRawBufferPointer
  /// What of the ring the buffer holds.
  private var held: Range<UInt64>

  /// - Parameter limit: no batch ends behind it.
  init(_ area: JournalArea, _ header: JournalHeader, limit: UInt64? = nil) {
    self.area = area
    incarnation = header.incarnation
    key = BatchHeader.key(area.uuid, header.incarnation)
    position = header.start
    chain = header.check
    self.limit = limit ?? header.start + UInt64(area.ringSize)
    buffer = .allocate(byteCount: min(1 << 20, area.ringSize), alignment: 16)
    held = header.start..<header.start
  }

  deinit { buffer.deallocate() }

  /// `count` bytes at `at`, read ahead as far as the buffer goes. Valid until the next call.
  private func bytes(_ at: UInt64, _ count: Int) throws(NVMError) -> UnsafeRawPointer {
    if at < held.lowerBound || at + UInt64(count) > held.upperBound {
      if count > buffer.count {
        buffer.deallocate()
        buffer = .allocate(byteCount: (count + 4095) & ~4095, alignment: 16)
      }
      let n = min(buffer.count, Int(limit - at))
      held = at..<at
      try area.read(UnsafeMutableRawBufferPointer(rebasing: buffer[..<n]), at: at)
      held = at..<at + UInt64(n)
    }
    return UnsafeRawPointer(buffer.baseAddress! + Int(at - held.lowerBound))
  }

  /// The batch at a position, if its own check holds.
  private func batch(_ at: UInt64) throws(NVMError) -> (BatchHeader, UnsafeRawBufferPointer, check: UInt64)? {
    guard at + UInt64(JournalLayout.batchHeader) <= limit else { return nil }
    let head = BatchHeader(try bytes(at, JournalLayout.batchHeader))
    guard head.position == at, head.incarnation == UInt32(truncatingIfNeeded: incarnation), head.length > 0,
      UInt64(head.size) <= limit - at
    else { return nil }
    let p = try bytes(at, head.size)
    let check = BatchHeader.check(p, Int(head.length), key)
    guard TrustedChecksum.journal.accepts(p.load(fromByteOffset: 24, as: UInt64.self) == check) else {
      return nil
    }
    return (
      head, UnsafeRawBufferPointer(start: p + JournalLayout.batchHeader, count: Int(head.length)), check
    )
  }

  /// The records of the next batch, valid until the next call; nil at the end.
  func next() throws(NVMError) -> UnsafeRawBufferPointer? {
    guard let (head, records, check) = try batch(position), head.previous == chain else { return nil }
    position += UInt64(head.size)
    chain = check
    return records
  }

  /// Throws where a whole batch of this journal stands behind the end: batches are written one after the other, so
  /// no crash leaves that. O(ring).
  func checkNothingFollows() throws(NVMError) {
    var at = position
    while at + UInt64(JournalLayout.batchHeader) <= limit {
      let word = try bytes(at, 8).load(as: UInt64.self)
      if word == at, try batch(at) != nil {
        throw NVMError(
          code: .corrupt,
          message:
            "The journal is damaged in the middle, so changes that were acknowledged cannot be carried out. "
            + "Restore the file from a backup; it was left as it was.", path: area.path,
          offset: UInt64(area.offset))
      }
      at += 8
    }
  }
}
