import CNVM
import NVMRegion

// Large objects of a thread's share, without the extent lock.
//
//     entry: free(k)   ──words 1 to 4, word 0 := object(k): one line, flush──▶   object(k)
//
// The head of a spare extent says free, durably or in the order of one line, and its word in the unit map says that it is
// held. So a crash leaves it free or the object, and nobody else touches the entry but for its name (word 4), which both
// make zero.
extension PersistentHeap {
  typealias ObjectPointer = UnsafeMutablePointer<ObjectShare>

  /// The calling thread's share of the objects, locked.
  func enterObjects() -> ObjectPointer {
    let share = shares.ownObjects
    return lock(of: share).takeIfFree() ? share : enterContendedObjects()
  }

  @inline(never)
  private func enterContendedObjects() -> ObjectPointer {
    let share = shares.ownObjects
    lock(of: share).lock()
    share.pointee.waits += 1
    if share.pointee.waits < Self.toleratedWaits { return share }
    share.pointee.waits = 0
    lock(of: share).unlock()
    widen(shares.objectIndex)
    let other = shares.ownObjects
    lock(of: other).lock()
    return other
  }

  // MARK: Taking

  /// Takes a spare extent of `count` units, or up to `slack` more, as it is: of the own share, else of another one.
  /// - Parameter use: the object that it is to be at once, flushed. Else it is held, and its head says free.
  func takeSpare(_ count: Int, slack: Int, use: ObjectUse?) -> (unit: Int, length: Int)? {
    let own = enterObjects()
    if let found = takeSpare(of: own, count, slack, use) { return found }
    for other in shares.allObjects() where other != own {
      let words = other.pointee.words
      guard words.spareUnits + words.restingUnits >= count, lock(of: other).tryLock() else { continue }
      if let found = takeSpare(of: other, count, slack, use) { return found }
    }
    return nil
  }

  /// The same of a share that is locked, and unlocks it.
  @inline(__always)
  private func takeSpare(
    of share: ObjectPointer, _ count: Int, _ slack: Int, _ use: ObjectUse?
  ) -> (unit: Int, length: Int)? {
    settle(share)
    let found = share.pointee.take(count, slack: slack, map)
    guard let found, let use else {
      lock(of: share).unlock()
      return found
    }
    share.pointee.countObject(found.length, use.byteCount)
    var tally = StoreTally()
    let at = storeEntry(
      found.unit, .object, length: found.length, use.word1, UInt64(use.byteCount), counting: &tally)
    lock(of: share).unlock()
    region.flush(line: at, words: 0b11111, counting: &tally)
    region.count(tally)
    publishObject(found.unit, found.length)
    return found
  }

  /// An object that is one on the medium, or on its way, may be freed from now on.
  func enterObject(_ unit: Int, _ count: Int, _ byteCount: Int) {
    let share = enterObjects()
    share.pointee.countObject(count, byteCount)
    lock(of: share).unlock()
    publishObject(unit, count)
  }

  private func publishObject(_ unit: Int, _ count: Int) {
    wear?.countAllocation(start(ofUnit: unit), count << unitShift)
    map.set(unit, tag: UnitMap.Tag.object, length: count)
  }

  // MARK: Freeing

  /// Puts a held extent to rest whose head says free.
  /// - Parameter byteCount: of the object that it was.
  func restExtent(_ unit: Int, _ length: Int, of byteCount: Int? = nil) {
    let tick = now()
    let share = enterObjects()
    if let byteCount { share.pointee.countObject(-length, -byteCount, -1) }
    share.pointee.rest(unit, length, tick: tick, map)
    lock(of: share).unlock()
  }

  // MARK: Giving back

  /// Makes spare what has rested in a share, which is locked. Where more rests than ``largeLimit(live:)``, the oldest counts
  /// as rested: to go through space that was never used costs more than its wear.
  private func settle(_ share: ObjectPointer) {
    if share.pointee.restingCount == 0 { return }
    share.pointee.allowance -= 1
    if share.pointee.allowance < 0 {
      let count = shares.count
      var (live, resting) = (0, 0)
      for other in shares.allObjects() {
        live += other.pointee.words.liveUnits
        resting += other.pointee.words.restingUnits
      }
      let limit = max(largeLimit(live: live << unitShift), restingByteLimit / 16) >> unitShift
      let part = count == 1 || resting == 0 ? 1 : Double(share.pointee.words.restingUnits) / Double(resting)
      share.pointee.restingLimit = max(limit / count, Int(Double(limit) * part))
      share.pointee.allowance = count == 1 ? 0 : Self.limitUses
    }
    share.pointee.settle(now: now(), ticks: restTicks, map)
  }
  private static let limitUses = 32

  /// Gives spare extents back where there are more than are live in objects, and an eighth of the heap.
  func limitSpares(_ space: inout ExtentSpace) {
    let own = enterObjects()
    settle(own)
    lock(of: own).unlock()
    let limit = max(0, shares.sumOfObjects { $0.liveUnits }) + unitCount / 8
    if shares.sumOfObjects({ $0.spareUnits }) > limit { giveSparesBack(&space, beyond: limit) }
  }

  /// Puts spare extents beyond a limit among the free runs; returns whether there were any.
  /// - Parameter settling: whether what has rested by now is made spare before.
  @discardableResult
  func giveSparesBack(_ space: inout ExtentSpace, beyond limit: Int = 0, settling: Bool = true) -> Bool {
    var isGiven = false
    let all = shares.sumOfObjects { $0.spareUnits + $0.restingUnits }
    for share in shares.allObjects() {
      let words = share.pointee.words
      let own = words.spareUnits + words.restingUnits
      if own == 0 { continue }
      let lock = lock(of: share)
      lock.lock()
      defer { lock.unlock() }
      if settling { settle(share) }
      let kept = Int(Double(limit) * Double(own) / Double(max(own, all)))
      while words.spareUnits > kept, let (unit, length) = share.pointee.popSpare(map) {
        giveBack(&space, unit, length)
        isGiven = true
      }
    }
    return isGiven
  }

  /// Makes runs of all that has rested: for tests.
  package func joinSpares() { extents.withLock { _ = giveSparesBack(&$0) } }

  /// Takes what has rested longest.
  func popOldestResting() -> (unit: Int, length: Int)? {
    let tick = now()
    var (oldest, age): (ObjectPointer?, UInt32) = (nil, 0)
    for share in shares.allObjects() where share.pointee.words.restingUnits > 0 {
      lock(of: share).lock()
      defer { lock(of: share).unlock() }
      guard let since = share.pointee.oldestTick(map), oldest == nil || tick &- since > age else { continue }
      (oldest, age) = (share, tick &- since)
    }
    guard let oldest else { return nil }
    lock(of: oldest).lock()
    defer { lock(of: oldest).unlock() }
    return oldest.pointee.popOldest(map)
  }
}
