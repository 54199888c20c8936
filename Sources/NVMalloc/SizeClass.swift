import CNVM

/// The slabs and freed blocks of one share of a size class, in memory, under a spin lock of its own
/// (``ClassShares/lock(of:)``). The lock is never held while another class's lock or the extent lock is taken; but it is
/// taken under the extent lock. Of two shares of a class the one with the lower number is locked first; with one held
/// any other may be *tried*.
///
/// A slab belongs to one share, its home, whose lock guards its free bits and counts. A freed block rests in the share of
/// the thread that freed it, and is handed out from there; only when it moves to the free bits it goes home.
struct SizeClass {
  /// A freed block that waits: the don't-allocate list.
  struct Freed {
    var slab: UnsafeMutablePointer<Slab>
    var index: UInt32
    var tick: UInt32
  }
  // One line, and nearly all that an allocation or a free uses.
  /// The quarantine: a ring in the order of freeing.
  var ring: UnsafeMutablePointer<Freed>
  var ringMask: Int
  var ringHead = 0
  var ringTail = 0
  /// From this many on the oldest is used before it has rested: see ``PersistentHeap/limitResting(_:)``.
  var restingLimit = Int.max
  /// Slabs that may yield blocks: those with free bits in front, then those with blocks beyond the mark or
  /// not scanned yet.
  var first: UnsafeMutablePointer<Slab>?
  /// The clock is read when the tail comes here, see ``stamp(_:)``.
  var stampAt = 0
  /// All before this one are known to have rested.
  var restedTo = 0

  /// Beyond this many the oldest, once they have waited, move to the free bits of their slabs.
  var ringLimit: Int
  /// All before this one have their time.
  private var stampedTo = 0
  private var lastStamp: UInt32 = 0
  /// How many rest, how many live, and ``allowance``: for threads without the lock to look at.
  let published: UnsafeMutableRawPointer
  var last: UnsafeMutablePointer<Slab>?
  /// All slabs in use.
  var anySlab: UnsafeMutablePointer<Slab>?
  var slabCount = 0

  var emptyCount = 0
  /// Slabs of the class that were there at open and are not adopted yet; in the first share. Guarded by the extent lock.
  var pendingSlabs = 0
  let blockBytes: Int
  let index: Int
  /// Which share it is.
  let number: Int
  /// How often a thread has waited for the lock.
  var waits = 0
  /// What another share saw when it looked for something to take: see ``isIdle()``.
  private var seen = 0
  private var padding: (Int, Int) = (0, 0)

  static let size = 192
  /// So many frees share a reading of the clock.
  private static let stampEvery = 16

  init(index: Int, number: Int, published: UnsafeMutableRawPointer) {
    self.index = index
    self.number = number
    self.published = published
    blockBytes = SizeClasses.lines(index) * 64
    // Most classes are never used.
    ring = .allocate(capacity: 1)
    ringMask = 0
    ringLimit = min(1 << 21, max(64, (256 << 20) / blockBytes))
  }

  /// How many rest, for threads without the lock.
  var restingCount: Int { Int(truncatingIfNeeded: nvm_load_relaxed(published)) }
  /// Bytes that this share may take before what rests in the heap is added up again: that reads a line of every share.
  var allowance: Int {
    get { Int(truncatingIfNeeded: nvm_load_relaxed(published + 16)) }
    nonmutating set { nvm_store_relaxed(published + 16, UInt64(truncatingIfNeeded: newValue)) }
  }
  /// Gives its memory back.
  func deallocate() {
    var next = anySlab
    while let slab = next {
      next = slab.pointee.nextOfClass
      slab.deallocate()
    }
    ring.deallocate()
  }

  var quarantined: Int { ringTail &- ringHead }
  /// Blocks allocated here less blocks freed here, whichever slab they are of: below 0 where other shares' blocks are
  /// freed. Blocks beyond live and free ones are counted by subtraction.
  @inline(__always)
  var liveBlocks: Int {
    get { Int(truncatingIfNeeded: nvm_load_relaxed(published + 8)) }
    nonmutating set { nvm_store_relaxed(published + 8, UInt64(truncatingIfNeeded: newValue)) }
  }

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
  private mutating func growRing() { resizeRing(max(Self.smallestRing, 2 * (ringMask + 1))) }
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
    countRested(ticks, now, atMost: 2 &* Self.stampEvery) > 0
  }
  private mutating func countRested(_ ticks: UInt32, _ now: UInt32, atMost count: Int) -> Int {
    if stampedTo < ringTail { stamp(now) }
    let end = min(stampedTo, ringHead &+ count)
    var i = ringHead
    while i < end, now &- ring[i & ringMask].tick >= ticks { i &+= 1 }
    restedTo = i
    return i &- ringHead
  }

  /// In how many ticks the oldest will have rested: 0 where it has.
  mutating func restsFor(ticks: UInt32, now: () -> UInt32) -> UInt32 {
    if ringTail == ringHead { return .max }
    let now = now()
    if stampedTo <= ringHead { stamp(now) }
    let age = now &- ring[ringHead & ringMask].tick
    return age >= ticks ? 0 : ticks &- age
  }

  // MARK: Between shares, both locked

  /// Takes blocks that have rested in another share, ahead of its own. Returns how many.
  mutating func takeRested(
    from other: UnsafeMutablePointer<SizeClass>, atMost count: Int, ticks: UInt32, now: UInt32
  ) -> Int {
    let n = other.pointee.countRested(ticks, now, atMost: count)
    if n == 0 { return 0 }
    while quarantined + n > ringMask + 1 { growRing() }
    // What comes in front has its time, and has rested.
    stampedTo = max(stampedTo, ringHead)
    restedTo = max(restedTo, ringHead)
    for i in (0..<n).reversed() {
      ringHead &-= 1
      ring[ringHead & ringMask] = other.pointee.ring[(other.pointee.ringHead &+ i) & other.pointee.ringMask]
    }
    other.pointee.ringHead &+= n
    publish()
    other.pointee.publish()
    return n
  }

  /// Takes all that rests in another share, behind its own.
  mutating func takeResting(from other: UnsafeMutablePointer<SizeClass>, now: UInt32) {
    stamp(now)
    other.pointee.stamp(now)
    while other.pointee.quarantined > 0 {
      if quarantined > ringMask { growRing() }
      ring[ringTail & ringMask] = other.pointee.pop()
      ringTail &+= 1
    }
    stampedTo = ringTail
    publish()
  }
  private func publish() { nvm_store_relaxed(published, UInt64(truncatingIfNeeded: quarantined)) }

  /// Makes a slab of another share one of its own.
  mutating func take(_ slab: UnsafeMutablePointer<Slab>, from other: UnsafeMutablePointer<SizeClass>) {
    other.pointee.drop(slab)
    if slab.isScanned, slab.pointee.busy == 0 {
      other.pointee.emptyCount -= 1
      emptyCount += 1
    }
    add(slab)
    relist(slab)
  }

  /// Whether nothing was allocated or freed here since this was asked last.
  mutating func isIdle() -> Bool {
    let now = ringHead &* 3 ^ ringTail &* 5 ^ liveBlocks &* 7
    defer { seen = now }
    return seen == now
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
