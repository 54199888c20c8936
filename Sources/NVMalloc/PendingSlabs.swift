import CNVM

/// Slabs that opening has found and that nobody needed yet: a bit for each unit, set where such a slab starts, and how
/// many there are. A slab has a descriptor in memory once it is adopted, ``PersistentHeap/adoptPending(_:_:)``; before
/// that nothing but its head on the medium is known, and that does not change.
///
/// Bits are guarded by the extent lock, and read without it only for a message (`isSet`).
struct PendingSlabs: @unchecked Sendable {
  private let count: UnsafeMutablePointer<UInt64>
  private let bits: UnsafeMutablePointer<UInt64>
  let wordCount: Int

  init(units: Int) {
    wordCount = (units + 63) / 64
    count = .allocate(capacity: 8 + wordCount)
    count.initialize(repeating: 0, count: 8 + wordCount)
    bits = count + 8
  }
  func deallocate() { count.deallocate() }

  /// Whether there are any; without the lock it may be a moment old.
  @inline(__always)
  var isEmpty: Bool { nvm_load_acquire(count) == 0 }
  var number: Int { Int(truncatingIfNeeded: nvm_load_acquire(count)) }

  func insert(_ unit: Int) {
    nvm_store_relaxed(bits + (unit >> 6), bits[unit >> 6] | 1 << UInt64(unit & 63))
    nvm_store_relaxed(count, count.pointee + 1)
  }
  /// The first slab of a word of bits.
  func first(inWord word: Int) -> Int? {
    bits[word] == 0 ? nil : word * 64 + bits[word].trailingZeroBitCount
  }
  func remove(_ unit: Int) {
    nvm_store_relaxed(bits + (unit >> 6), bits[unit >> 6] & ~(1 << UInt64(unit & 63)))
    nvm_store_release(count, count.pointee - 1)
  }
  /// Whether a pending slab starts here.
  func isSet(_ unit: Int) -> Bool {
    unit >> 6 < wordCount && nvm_load_relaxed(bits + (unit >> 6)) >> UInt64(unit & 63) & 1 != 0
  }
}
