import CNVM

/// The slabs and freed blocks of one size class, in memory, under a spin lock of its own
/// (``PersistentHeap/classLock(_:)``). The lock is never held while another class's lock or the extent lock
/// is taken; but it is taken under the extent lock.
struct SizeClass {
  /// A freed block that waits: the don't-allocate list.
  struct Freed {
    var slab: UnsafeMutablePointer<Slab>
    var index: UInt32
    var tick: UInt32
  }
  // One line, and nearly all that an allocation or a free changes: what threads hand to each other with the lock is few
  // lines.
  /// The quarantine: a ring in the order of freeing.
  var ring: UnsafeMutablePointer<Freed>
  var ringMask: Int
  var ringHead = 0
  var ringTail = 0
  /// Blocks beyond live and free ones are counted by subtraction.
  var liveBlocks = 0
  /// Slabs that may yield blocks: those with free bits in front, then those with blocks beyond the mark or
  /// not scanned yet.
  var first: UnsafeMutablePointer<Slab>?
  /// The clock is read when the tail comes here, see ``stamp(_:)``.
  var stampAt = 0
  /// All before this one are known to have rested.
  var restedTo = 0

  /// From this many on the oldest is used before it has rested: see ``PersistentHeap/limitResting(_:)``.
  var restingLimit = Int.max
  /// Beyond this many the oldest, once they have waited, move to the free bits of their slabs.
  var ringLimit: Int
  /// All before this one have their time.
  private var stampedTo = 0
  private var lastStamp: UInt32 = 0
  /// How many rest, for other threads to look at.
  let published: UnsafeMutableRawPointer
  var last: UnsafeMutablePointer<Slab>?
  /// All slabs in use.
  var anySlab: UnsafeMutablePointer<Slab>?
  var slabCount = 0

  var emptyCount = 0
  /// Slabs that were there at open and are not adopted yet. Guarded by the extent lock.
  var pendingSlabs = 0
  var blockBytes = 0
  var index = 0
  private var padding: (Int, Int, Int, Int) = (0, 0, 0, 0)

  static let size = 192
  /// So many frees share a reading of the clock.
  private static let stampEvery = 16

  init(index: Int, published: UnsafeMutableRawPointer) {
    self.index = index
    self.published = published
    blockBytes = SizeClasses.lines(index) * 64
    ring = .allocate(capacity: Self.smallestRing)
    ringMask = Self.smallestRing - 1
    ringLimit = min(1 << 21, max(64, (256 << 20) / blockBytes))
  }

  var quarantined: Int { ringTail &- ringHead }

  // MARK: The ring

  /// Appends a block whose time is to be told by ``stamp(_:)``: `true` where that is due now.
  @inline(__always)
  mutating func push(_ slab: UnsafeMutablePointer<Slab>, _ index: Int) -> Bool {
    if ringTail &- ringHead > ringMask { growRing() }
    ring[ringTail & ringMask] = Freed(slab: slab, index: UInt32(truncatingIfNeeded: index), tick: 0)
    ringTail &+= 1
    nvm_store_relaxed(published, UInt64(truncatingIfNeeded: quarantined))
    return ringTail >= stampAt
  }
  private static let smallestRing = 16
  @inline(never)
  private mutating func growRing() { resizeRing(2 * (ringMask + 1)) }
  private mutating func resizeRing(_ capacity: Int) {
    let new: UnsafeMutablePointer<Freed> = .allocate(capacity: capacity)
    let mask = capacity - 1
    for i in ringHead..<ringTail { new[i & mask] = ring[i & ringMask] }
    ring.deallocate()
    ring = new
    ringMask = mask
  }
  /// Gives the memory of a large ring back that is empty.
  mutating func shrinkRing() {
    if ringTail == ringHead, ringMask > 4095 { resizeRing(Self.smallestRing) }
  }
  @inline(__always)
  mutating func pop() -> Freed {
    let freed = ring[ringHead & ringMask]
    ringHead &+= 1
    nvm_store_relaxed(published, UInt64(truncatingIfNeeded: quarantined))
    return freed
  }

  // Reading the clock costs as much as all else that a free does beside its fence. While frees are many to a tick, some
  // of them share one reading, taken after the last of them: they rest a little longer than they must, never less. Who
  // looks at the oldest gives all of them their time.

  /// Says when those without a time were freed: no later than now.
  mutating func stamp(_ tick: UInt32) {
    var i = max(stampedTo, ringHead)
    while i < ringTail {
      ring[i & ringMask].tick = tick
      i &+= 1
    }
    stampedTo = ringTail
    stampAt = ringTail &+ (tick == lastStamp ? Self.stampEvery : 1)
    lastStamp = tick
  }

  /// Whether the oldest has rested for so many ticks.
  @inline(__always)
  mutating func hasRested(ticks: UInt32, now: () -> UInt32) -> Bool {
    if ringHead < restedTo { return true }
    return ringTail != ringHead && findRested(ticks, now())
  }
  /// Looks how many of the oldest have rested, up to a batch. `false`: not even one.
  @inline(never)
  private mutating func findRested(_ ticks: UInt32, _ now: UInt32) -> Bool {
    if stampedTo < ringTail { stamp(now) }
    let end = min(stampedTo, ringHead &+ 2 &* Self.stampEvery)
    var i = ringHead
    while i < end, now &- ring[i & ringMask].tick >= ticks { i &+= 1 }
    restedTo = i
    return i > ringHead
  }
  /// Asks for the slabs of the next `count` to be popped.
  func prefetchOldest(_ count: Int) {
    for i in ringHead..<min(ringHead &+ count, ringTail) {
      let freed = ring[i & ringMask]
      freed.slab.prefetch(Int(truncatingIfNeeded: freed.index))
    }
  }
  /// Brings the freed block with the lowest rank of the oldest `count` to the head; those without a rank may not come yet.
  mutating func preferOldest(of count: Int, rank: (Freed) -> UInt32?) {
    var best: (at: Int, rank: UInt32)?
    for i in ringHead..<min(ringHead &+ count, ringTail) {
      guard let r = rank(ring[i & ringMask]) else { break }
      if r < best?.rank ?? .max { best = (i, r) }
    }
    guard let best, best.at != ringHead else { return }
    // The others keep their order.
    let chosen = ring[best.at & ringMask]
    var i = best.at
    while i > ringHead {
      ring[i & ringMask] = ring[(i &- 1) & ringMask]
      i &-= 1
    }
    ring[ringHead & ringMask] = chosen
  }
  /// The one to be popped after `ahead` others.
  @inline(__always)
  func upcoming(_ ahead: Int) -> Freed? {
    ringTail &- ringHead > ahead ? ring[(ringHead &+ ahead) & ringMask] : nil
  }

  // MARK: The list of slabs that may yield blocks

  mutating func pushFront(_ slab: UnsafeMutablePointer<Slab>) {
    slab.pointee.isListed = true
    slab.pointee.previous = nil
    slab.pointee.next = first
    if let first { first.pointee.previous = slab } else { last = slab }
    first = slab
  }
  mutating func pushBack(_ slab: UnsafeMutablePointer<Slab>) {
    slab.pointee.isListed = true
    slab.pointee.next = nil
    slab.pointee.previous = last
    if let last { last.pointee.next = slab } else { first = slab }
    last = slab
  }
  mutating func unlist(_ slab: UnsafeMutablePointer<Slab>) {
    guard slab.pointee.isListed else { return }
    if let previous = slab.pointee.previous {
      previous.pointee.next = slab.pointee.next
    } else {
      first = slab.pointee.next
    }
    if let next = slab.pointee.next {
      next.pointee.previous = slab.pointee.previous
    } else {
      last = slab.pointee.previous
    }
    slab.pointee.isListed = false
  }
  /// Puts the slab where its free bits and mark say.
  mutating func relist(_ slab: UnsafeMutablePointer<Slab>) {
    unlist(slab)
    if slab.pointee.isDraining { return }
    if slab.pointee.isSetAside && slab.isScanned && slab.pointee.freeCount == 0 { return }
    if slab.pointee.freeCount > 0 {
      pushFront(slab)
    } else if !slab.isScanned || slab.pointee.mark < slab.pointee.blockCount {
      pushBack(slab)
    }
  }

  mutating func add(_ slab: UnsafeMutablePointer<Slab>) {
    slab.pointee.previousOfClass = nil
    slab.pointee.nextOfClass = anySlab
    anySlab?.pointee.previousOfClass = slab
    anySlab = slab
    slabCount += 1
  }
  mutating func drop(_ slab: UnsafeMutablePointer<Slab>) {
    unlist(slab)
    if let p = slab.pointee.previousOfClass {
      p.pointee.nextOfClass = slab.pointee.nextOfClass
    } else {
      anySlab = slab.pointee.nextOfClass
    }
    slab.pointee.nextOfClass?.pointee.previousOfClass = slab.pointee.previousOfClass
    slabCount -= 1
  }
}
