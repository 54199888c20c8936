import CNVM
import NVMRegion

// Shares of a class: entering the own one, and taking from others what the own one lacks.
//
// A block that another thread frees stays with that one: it rests in its share and is handed out there. Where one thread
// allocates what another one frees, blocks that have rested come back many at a time, when the first would else need a
// slab; so do slabs with room, but for the last that a share in use has, lest two threads take it from each other. Under
// space pressure a share's blocks are taken one by one by whoever needs them: the last block of a heap is handed out.
extension PersistentHeap {
  typealias Share = ClassShares.Share

  @inline(__always)
  func lock<T>(of share: UnsafeMutablePointer<T>) -> SpinLock { ClassShares.lock(of: share) }

  /// The calling thread's share of a class, locked.
  @inline(__always)
  func enter(_ index: Int) -> Share {
    let share = shares.own(index)
    return lock(of: share).takeIfFree() ? share : enterContended(index)
  }

  /// After so many waits a class gets more shares.
  static let toleratedWaits = 8

  @inline(never)
  private func enterContended(_ index: Int) -> Share {
    let share = shares.own(index)
    lock(of: share).lock()
    share.pointee.waits += 1
    if share.pointee.waits < Self.toleratedWaits { return share }
    share.pointee.waits = 0
    lock(of: share).unlock()
    widen(index)
    let other = shares.own(index)
    lock(of: other).lock()
    return other
  }

  /// Twice as many shares of a class, or of the objects. None comes up while the table moves: ``enterAlone()``.
  func widen(_ index: Int) {
    gate.enter()
    defer { gate.leave() }
    shares.widen(index)
  }

  /// Locks the share that a slab belongs to, and returns it; `nil` where it belongs to none yet. The slab may be one that
  /// is not in use any more.
  func lockHome(of slab: UnsafeMutablePointer<Slab>) -> Share? {
    while let home = slab.home {
      lock(of: home).lock()
      if slab.home == home { return home }
      lock(of: home).unlock()
    }
    return nil
  }

  private func withBothLocked<T>(_ a: Share, _ b: Share, _ body: () -> T) -> T {
    let (first, second) = a.pointee.number < b.pointee.number ? (a, b) : (b, a)
    lock(of: first).lock()
    lock(of: second).lock()
    defer {
      lock(of: second).unlock()
      lock(of: first).unlock()
    }
    return body()
  }

  /// So many blocks that have rested change shares at a time.
  private static let takenAtOnce = 256

  /// Takes blocks that have rested, or a slab with room, from another share of the class: `true` where there is something
  /// to look for now. Needs no lock held. O(shares).
  func takeFromOthers(_ own: Share) throws(NVMError) -> Bool {
    for other in shares.all(own.pointee.index) where other != own {
      if try settleEarly(other) { return true }
      let isTaken = withBothLocked(own, other) {
        if own.pointee.takeRested(
          from: other, atMost: Self.takenAtOnce, ticks: restTicks, now: now()) > 0
        {
          return true
        }
        guard let slab = other.pointee.last, slab != other.pointee.first || other.pointee.isIdle() else {
          return false
        }
        move(slab, from: other, to: own)
        return true
      }
      if isTaken { return true }
    }
    return false
  }

  /// Where too much rests in a share, moves its oldest to the free bits of their slabs, before they have rested.
  private func settleEarly(_ share: Share) throws(NVMError) -> Bool {
    lock(of: share).lock()
    var empty: UnsafeMutablePointer<Slab>?
    var count = 0
    if limitResting(share) {
      let excess = share.pointee.quarantined - share.pointee.restingLimit + 1
      count = settleResting(
        share, atMost: min(excess, Self.takenAtOnce), early: true, keeping: .half, &empty)
    }
    lock(of: share).unlock()
    try releaseSlabs(empty)
    return count > 0
  }

  /// With both locks held.
  private func move(_ slab: UnsafeMutablePointer<Slab>, from: Share, to: Share) {
    slab.setHome(to)
    to.pointee.take(slab, from: from)
    noteGain()
  }

  /// Brings all shares of a class into the first, which all threads use from now on, until they wait for each other again.
  /// Needs no lock held. O(slabs + resting blocks).
  func joinShares(_ index: Int) -> Share {
    let first = shares.first(index)
    shares.narrow(index)
    for other in shares.all(index) where other != first {
      withBothLocked(first, other) {
        while let slab = other.pointee.anySlab { move(slab, from: other, to: first) }
        first.pointee.takeResting(from: other, now: now())
      }
    }
    return first
  }
}
