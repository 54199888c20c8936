import CNVM

/// A slab as the heap keeps it in memory, on a line boundary and with its bitmaps right behind. Allocated once and used
/// again for other slabs, never given back to the system while the heap lives: a stale pointer meets a slab of another
/// place, never freed memory.
///
///     mark == busy + free bits + damaged
///     busy == allocated + quarantined + reserved or between two states
struct Slab {
  // The first line: read by all threads without a lock, and so without anything that changes while the slab is in use.
  /// Never used: a change of any field counts, for the thread sanitizer, as one of the structure's first word, which
  /// therefore nobody may read without the lock.
  private let first: UInt64 = 0
  /// Address of the bitmaps, 0 before the slab was scanned. For every 64 blocks a word of *allocated* bits, changed
  /// atomically, and one of *free* bits, guarded by the share's lock.
  var bits: UInt64 = 0
  static let bitsOffset = 8
  var base: UInt64 = 0
  var blockBytes = 0
  var reciprocal: UInt64 = 0
  var blockCount = 0
  var generation: UInt32 = 0
  var classIndex = 0
  var firstUnit = 0

  var unitCount = 0
  var wordCount = 0
  /// Address of the share that it belongs to, 0 before it had one. Changed atomically, with both shares' locks held.
  private(set) var home: UInt64 = 0
  static let homeOffset = 88

  /// Guarded by the share's lock from here on.
  /// Where the search for a free bit goes on.
  var searchWord = 0
  var freeCount = 0
  var busy = 0
  /// The free block to be taken next, -1 for the lowest.
  var preferred = -1
  var mark = 0
  var damaged = 0
  /// Where the mark is damaged on the medium: nothing is allocated any more.
  var isSetAside = false
  var isInUse = false
  /// Being emptied: nothing new comes in.
  var isDraining = false
  var isListed = false
  var next: UnsafeMutablePointer<Slab>?
  var previous: UnsafeMutablePointer<Slab>?
  /// All slabs in use of the share; of one that is not in use, the next spare one.
  var nextOfClass: UnsafeMutablePointer<Slab>?
  var previousOfClass: UnsafeMutablePointer<Slab>?
}

extension Slab {
  /// Bytes of a slab without its bitmaps: whole lines.
  static var size: Int { (MemoryLayout<Slab>.size + 63) & ~63 }
  /// The most blocks that a slab has: see ``SizeClasses/slabUnits(blockBytes:unitShift:isFirst:)``.
  static func wordCapacity(unitShift: Int) -> Int { ((4 << unitShift) / 64 + 63) / 64 }

  /// The most units of a slab that may wait to be adopted. Those that are made have fewer: eight blocks of at most eight
  /// units, and what ``SizeClasses/slabUnits(blockBytes:unitShift:isFirst:)`` adds.
  static let longestPending = 128

  static func make(unitShift: Int) -> UnsafeMutablePointer<Slab> {
    let raw = UnsafeMutableRawPointer.allocate(
      byteCount: size + wordCapacity(unitShift: unitShift) * 16, alignment: 64)
    return raw.initializeMemory(as: Slab.self, to: Slab())
  }
}

extension UnsafeMutablePointer where Pointee == Slab {
  @inline(__always)
  func offset(_ index: Int) -> UInt64 {
    pointee.base &+ UInt64(truncatingIfNeeded: index &* pointee.blockBytes)
  }

  /// The block that `offset` lies in; may be beyond the last one.
  @inline(__always)
  func index(of offset: UInt64) -> Int {
    // Exact: (distance in lines) < 2^20, size in lines < 2^12, reciprocal = ceil(2^40 / size).
    Int(truncatingIfNeeded: ((offset &- pointee.base) >> 6 &* pointee.reciprocal) >> 40)
  }

  /// The share whose lock guards it.
  var home: UnsafeMutablePointer<SizeClass>? {
    UnsafeMutablePointer<SizeClass>(
      bitPattern: UInt(nvm_load_acquire(UnsafeMutableRawPointer(self) + Slab.homeOffset)))
  }
  func setHome(_ share: UnsafeMutablePointer<SizeClass>) {
    nvm_store_release(UnsafeMutableRawPointer(self) + Slab.homeOffset, UInt64(UInt(bitPattern: share)))
  }

  @inline(__always)
  private var bitsWord: UnsafeMutableRawPointer { UnsafeMutableRawPointer(self) + Slab.bitsOffset }
  @inline(__always)
  private var bitmap: UnsafeMutableRawPointer? {
    UnsafeMutableRawPointer(bitPattern: UInt(nvm_load_acquire(bitsWord)))
  }
  @inline(__always)
  var isScanned: Bool { nvm_load_acquire(bitsWord) != 0 }

  @inline(__always)
  func isAllocated(_ index: Int) -> Bool {
    guard let bitmap else { return false }
    return nvm_load_acquire(bitmap + (index >> 6) &* 16) >> UInt64(index & 63) & 1 != 0
  }

  /// How many blocks are allocated.
  var allocatedCount: Int {
    guard let bitmap else { return 0 }
    return (0..<pointee.wordCount).reduce(0) { $0 + nvm_load_acquire(bitmap + $1 * 16).nonzeroBitCount }
  }

  /// Sets the allocated bit, which must be clear and belong to the caller.
  @inline(__always)
  func setAllocated(_ index: Int) {
    _ = nvm_fetch_add_acqrel(bitmap! + (index >> 6) &* 16, 1 << UInt64(index & 63))
  }

  /// Test-and-clear of the allocated bit: whoever gets `true` owns the block's header.
  @inline(__always)
  func claim(_ index: Int) -> Bool {
    guard let bitmap else { return false }
    let word = bitmap + (index >> 6) &* 16
    let bit: UInt64 = 1 << UInt64(index & 63)
    while true {
      let old = nvm_load_acquire(word)
      if old & bit == 0 { return false }
      if nvm_compare_exchange(word, old, old & ~bit) { return true }
    }
  }

  // Free bits, under the share's lock.

  /// At odd indices.
  private var freeBits: UnsafeMutablePointer<UInt64> { bitmap!.assumingMemoryBound(to: UInt64.self) }

  func setFree(_ index: Int) {
    freeBits[(index >> 6) &* 2 &+ 1] |= 1 << UInt64(index & 63)
    pointee.freeCount &+= 1
    if index >> 6 < pointee.searchWord { pointee.searchWord = index >> 6 }
  }

  /// Takes the lowest free block. `nil` where there is none, whatever `freeCount` says: it says 0 then.
  func takeFree() -> Int? {
    let free = freeBits
    let preferred = pointee.preferred
    if preferred >= 0 {
      pointee.preferred = -1
      pointee.freeCount &-= 1
      free[(preferred >> 6) &* 2 &+ 1] &= ~(1 << UInt64(preferred & 63))
      return preferred
    }
    var w = pointee.searchWord
    while w < pointee.wordCount {
      let word = free[2 &* w &+ 1]
      if word != 0 {
        let bit = word.trailingZeroBitCount
        free[2 &* w &+ 1] = word & (word &- 1)
        pointee.searchWord = w
        pointee.freeCount &-= 1
        return w &* 64 &+ bit
      }
      w &+= 1
    }
    pointee.freeCount = 0
    return nil
  }

  /// What ``takeFree()`` will probably take, where that is seen at a glance.
  @inline(__always)
  func nextFree() -> Int? {
    let w = pointee.searchWord
    let word = freeBits[2 &* w &+ 1]
    return word == 0 ? nil : w &* 64 &+ word.trailingZeroBitCount
  }

  /// Makes the block with the lowest rank of the first 64 free ones the next that ``takeFree()`` takes.
  func preferFree(rank: (Int) -> UInt32) {
    let free = freeBits
    var w = pointee.searchWord
    while w < pointee.wordCount, free[2 &* w &+ 1] == 0 { w &+= 1 }
    guard w < pointee.wordCount else { return }
    var rest = free[2 &* w &+ 1]
    var best = (index: 0, rank: UInt32.max)
    while rest != 0 {
      let index = w &* 64 &+ rest.trailingZeroBitCount
      rest &= rest &- 1
      let r = rank(index)
      if r < best.rank { best = (index, r) }
    }
    pointee.preferred = best.rank == .max ? -1 : best.index
  }

  /// The slab's bitmaps, all clear.
  func prepareBits() -> UnsafeMutableRawPointer {
    let bits = UnsafeMutableRawPointer(self) + Slab.size
    bits.initializeMemory(as: UInt8.self, repeating: 0, count: pointee.wordCount * 16)
    return bits
  }
  /// Asks for what giving a block back to the free bits will touch.
  @inline(__always)
  func prefetch(_ index: Int) {
    nvm_prefetch_write(self)
    nvm_prefetch_write(UnsafeMutableRawPointer(self) + 64)
    prefetchBits(index)
  }
  /// Asks for a block's bits.
  @inline(__always)
  func prefetchBits(_ index: Int) {
    nvm_prefetch_write(UnsafeMutableRawPointer(self) + (Slab.size &+ (index >> 6) &* 16))
  }
  /// Makes the slab one that was not scanned.
  func withdrawBits() { nvm_store_release(bitsWord, 0) }
  /// Makes bitmaps visible to threads without the lock.
  func publishBits(_ bits: UnsafeMutableRawPointer) {
    nvm_store_release(bitsWord, UInt64(UInt(bitPattern: bits)))
  }
}
