import CNVM
import Glibc
import NVMRegion

/// What the heap keeps in memory about each unit: reserved for the largest size the region may reach, so that
/// it never moves and is read without a lock; only touched pages take memory.
///
/// The word of a unit:
///
///     slab      every unit: address of the slab | 1
///     object    its head: length << 3 | 2;   3 while it is reserved, being freed or in quarantine
///     free      head of a run as coalesced in memory: length << 3 | 4
///     other     head of a table, log or system extent, or of a hole set aside: length << 3 | 5
///     0         inside an extent other than a slab
struct UnitMap: @unchecked Sendable {
  struct Entry {
    var word: UInt64
    /// In the last unit of a free run: its head + 1. May be stale elsewhere; checked against the head.
    var headPlus1: UInt32
    /// Neighbours in the ``UnitList`` that the extent is in, + 1.
    var next: UInt32
    var previous: UInt32
    /// In the head of a free extent on the medium: the head of the object whose entry names it (word 4), + 1; or 0.
    /// May be stale; checked against that object's length.
    var namedBy: UInt32
  }
  enum Tag {
    static let slab: UInt64 = 1
    static let object: UInt64 = 2
    static let objectHeld: UInt64 = 3
    static let free: UInt64 = 4
    static let other: UInt64 = 5
  }
  let entries: UnsafeMutablePointer<Entry>
  let capacity: Int

  /// Reserves entries for `wanted` units, or for fewer where the process may not have so many: the heap then
  /// cannot grow beyond them.
  static func make(wanted: Int, needed: Int, path: String) throws(NVMError) -> UnitMap {
    var capacity = wanted
    while true {
      let p = mmap(
        nil, capacity * MemoryLayout<Entry>.stride, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
      if let p, p != MAP_FAILED {
        return UnitMap(entries: p.bindMemory(to: Entry.self, capacity: capacity), capacity: capacity)
      }
      guard capacity > needed else { break }
      capacity = max(needed, capacity / 4)
    }
    throw NVMError(
      code: .outOfMemory,
      message: "No address space for the heap's tables. Open the region with a smaller maximum size, or "
        + "raise the limit (ulimit -v).", path: path, errno: errno)
  }
  func deallocate() { munmap(entries, capacity * MemoryLayout<Entry>.stride) }

  @inline(__always)
  func word(_ unit: Int) -> UInt64 { nvm_load_acquire(entries + unit) }
  @inline(__always)
  func setWord(_ unit: Int, _ word: UInt64) { nvm_store_release(entries + unit, word) }
  func set(_ unit: Int, tag: UInt64, length: Int) { setWord(unit, UInt64(length) << 3 | tag) }
  /// `false` when the word was not `expected`.
  func exchange(_ unit: Int, _ expected: UInt64, _ desired: UInt64) -> Bool {
    nvm_compare_exchange(entries + unit, expected, desired)
  }

  @inline(__always)
  static func tag(_ word: UInt64) -> UInt64 { word & 7 }
  @inline(__always)
  static func length(_ word: UInt64) -> Int { Int(truncatingIfNeeded: word >> 3) }
  @inline(__always)
  static func slab(_ word: UInt64) -> UnsafeMutablePointer<Slab>? {
    word & 7 == Tag.slab ? UnsafeMutablePointer(bitPattern: UInt(word & ~7)) : nil
  }
}
