import CNVM
import Glibc
import NVMBTree

/// The changes of one tree while a transaction runs: encoded keys and values in one block of memory, found by hash.
/// A key stands in it once.
///
/// Not thread-safe: it belongs to a transaction, and in between to the open tree, for the next one.
@usableFromInline final class ChangeTable {
  /// What a key comes to hold.
  @usableFromInline enum Pending {
    /// Valid until the next change.
    case value(UnsafeRawBufferPointer)
    case nothing
    case unchanged
  }

  private struct Entry {
    var key: Int
    var keyCount: Int
    var value: Int
    /// Negative: the key is removed.
    var valueCount: Int
    var hash: UInt32
  }

  let tree: EncodedTree
  private let seed: UInt64
  @exclusivity(unchecked) private var entries: [Entry] = []
  /// Numbers of entries + 1 by hash, 0 where there is none; at most half full.
  @exclusivity(unchecked) private var slots: [UInt32] = []
  @exclusivity(unchecked) private var bytes: UnsafeMutableRawPointer
  @exclusivity(unchecked) private var capacity = 1024
  @exclusivity(unchecked) private var used = 0

  init(_ tree: EncodedTree) {
    self.tree = tree
    // Not the same in each opening: nobody can prepare keys that all fall on one slot.
    seed = UInt64.random(in: .min ... .max)
    bytes = .allocate(byteCount: capacity, alignment: 8)
  }

  deinit { bytes.deallocate() }

  var isEmpty: Bool { entries.isEmpty }
  /// The number of keys.
  var count: Int { entries.count }

  // MARK: Another transaction

  /// Beyond this it is not worth keeping, in slots and bytes.
  private static let mostSlots = 4096
  private static let mostBytes = 256 << 10

  /// Forgets all changes. Whether the table is small enough to be kept for the next transaction. O(slots).
  func removeAll() -> Bool {
    guard slots.count <= Self.mostSlots, capacity <= Self.mostBytes else { return false }
    entries.removeAll(keepingCapacity: true)
    slots.withUnsafeMutableBufferPointer { $0.update(repeating: 0) }
    used = 0
    return true
  }

  // MARK: Questions

  /// What the key is changed to so far. O(1).
  @usableFromInline
  func pending(_ key: UnsafeRawBufferPointer) -> Pending {
    guard !entries.isEmpty, let i = find(key, hash(key)).entry else { return .unchanged }
    let entry = entries[i]
    guard entry.valueCount >= 0 else { return .nothing }
    return .value(UnsafeRawBufferPointer(start: bytes + entry.value, count: entry.valueCount))
  }

  // MARK: Changes

  /// Notes what a key comes to hold; `nil`: nothing. Copies both. O(1).
  @usableFromInline
  func set(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer?) {
    if entries.count &* 2 >= slots.count { rehash() }
    let hash = hash(key)
    let (slot, known) = find(key, hash)
    if let known {
      guard let value else { return entries[known].valueCount = -1 }
      if value.count > entries[known].valueCount { entries[known].value = append(value) }
      (bytes + entries[known].value).copyBytes(value)
      entries[known].valueCount = value.count
      return
    }
    let at = append(key)
    entries.append(
      Entry(
        key: at, keyCount: key.count, value: value.map { append($0) } ?? 0, valueCount: value?.count ?? -1,
        hash: hash))
    slots[slot] = UInt32(entries.count)
  }

  private func hash(_ key: UnsafeRawBufferPointer) -> UInt32 {
    nvm_fold32(nvm_hash_bytes(seed, key.baseAddress, key.count))
  }

  /// The slot where a key stands, or would.
  private func find(_ key: UnsafeRawBufferPointer, _ hash: UInt32) -> (slot: Int, entry: Int?) {
    let mask = slots.count &- 1
    var slot = Int(hash) & mask
    while slots[slot] != 0 {
      let i = Int(slots[slot]) &- 1
      if entries[i].hash == hash, entries[i].keyCount == key.count,
        key.count == 0 || memcmp(bytes + entries[i].key, key.baseAddress!, key.count) == 0
      {
        return (slot, i)
      }
      slot = (slot &+ 1) & mask
    }
    return (slot, nil)
  }

  private func rehash() {
    slots = [UInt32](repeating: 0, count: max(16, slots.count * 4))
    entries.reserveCapacity(slots.count / 2)
    let mask = slots.count - 1
    for (i, entry) in entries.enumerated() {
      var slot = Int(entry.hash) & mask
      while slots[slot] != 0 { slot = (slot + 1) & mask }
      slots[slot] = UInt32(i + 1)
    }
  }

  /// Where the copy stands: at a multiple of 8.
  private func append(_ new: UnsafeRawBufferPointer) -> Int {
    let at = used
    used = (used &+ new.count &+ 7) & ~7
    if used > capacity { grow(keeping: at) }
    (bytes + at).copyBytes(new)
    return at
  }

  private func grow(keeping count: Int) {
    capacity = max(used, 2 * capacity)
    let larger = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 8)
    larger.copyMemory(from: bytes, byteCount: count)
    bytes.deallocate()
    bytes = larger
  }

  // MARK: The end

  /// All changes in key order. Valid as long as the table, until the next change. O(n log n), O(n) for short keys.
  func sorted() -> [EncodedChange] {
    let order = KeyOrder.sorted(count: entries.count) { i in
      UnsafeRawBufferPointer(start: bytes + entries[i].key, count: entries[i].keyCount)
    }
    return order.map { item in
      let entry = entries[item.number]
      return EncodedChange(
        key: UnsafeRawBufferPointer(start: bytes + entry.key, count: entry.keyCount),
        value: entry.valueCount < 0
          ? nil : UnsafeRawBufferPointer(start: bytes + entry.value, count: entry.valueCount))
    }
  }
}

extension UnsafeMutableRawPointer {
  @inline(__always) fileprivate func copyBytes(_ from: UnsafeRawBufferPointer) {
    if let source = from.baseAddress { copyMemory(from: source, byteCount: from.count) }
  }
}

/// The changes of one tree in key order, and what they have replaced so far.
struct TreeChanges {
  let number: UInt32
  let changes: [EncodedChange]
  let replaced: ReplacedValues

  init(number: UInt32, changes: [EncodedChange]) {
    (self.number, self.changes) = (number, changes)
    replaced = ReplacedValues(capacity: changes.count)
  }
}
