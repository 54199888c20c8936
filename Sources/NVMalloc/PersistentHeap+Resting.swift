import CNVM
import Glibc
import NVMRegion

// What rests: how much may, and how blocks that have rested and slabs left empty go back.
extension PersistentHeap {
  /// Called before a class takes space that it never used. Where more than the limit rests in the heap, and a fair
  /// part of that in this class, or where its blocks are larger and more of them rest than an eighth of the limit or,
  /// with others resting too, than ``largeLimit(live:)``, the class uses its oldest early from now on: each share by what
  /// rests in it of what rests in all. Then `true`. Under the class lock.
  func limitResting(_ c: UnsafeMutablePointer<SizeClass>) -> Bool {
    let limit = restingByteLimit
    let blockBytes = c.pointee.blockBytes
    if c.pointee.allowance > 0 {
      c.pointee.allowance -= Self.batch * blockBytes
      return c.pointee.quarantined >= c.pointee.restingLimit
    }
    c.pointee.allowance = limit / Self.looksAtResting
    let all = restingBytes
    var (live, resting, count) = (0, 0, 0)
    for share in shares.all(c.pointee.index) {
      live += share.pointee.liveBlocks
      resting += share.pointee.restingCount
      count += 1
    }
    var most = Int.max
    if blockBytes > Self.longestFullRest {
      most = all > limit / 4 ? largeLimit(live: live * blockBytes) : limit / 8
    }
    if all > limit { most = min(most, limit / 16) }
    if most == .max {
      c.pointee.restingLimit = .max
    } else {
      let blocks = max(Self.fewestResting, most / blockBytes)
      // By floating-point numbers: a limit may be as large as a number can be.
      let part = resting == 0 ? 1 : min(1, Double(c.pointee.quarantined) / Double(resting))
      let fair = Int(Double(blocks) * part)
      c.pointee.restingLimit = max(Self.fewestResting, blocks / count, fair)
    }
    return c.pointee.quarantined >= c.pointee.restingLimit
  }

  /// Blocks up to this size rest for the whole time, as long as the heap's limit is kept: theirs are the headers that an
  /// allocator wears out. Of larger ones the application writes most lines itself.
  static let longestFullRest = 1024
  static let fewestResting = 16
  /// So many times while a share takes as much as may rest, it is looked how much does.
  private static let looksAtResting = 256

  /// Bytes of one class, or of large objects, that may rest where blocks are larger than ``longestFullRest``: a quarter of
  /// what is live of them, but a 64th of the heap's limit at least, and an eighth at most.
  func largeLimit(live: Int) -> Int {
    let limit = restingByteLimit
    return min(max(live / 4, limit / 64), limit / 8)
  }

  var restingByteLimit: Int { max(options.quarantineLimit, unitCount << unitShift / 8) }

  /// Bytes that rest, of all classes and of large objects. Approximate beside other threads. O(classes × shares).
  var restingBytes: Int {
    shares.sumOfObjects { $0.restingUnits } << unitShift + shares.restingBytes
  }

  // MARK: Giving back

  /// Gives the blocks freed last their time. Moves some of what has rested beyond the ring's limit to the free bits, many
  /// at a time: their slabs are scattered over memory, and so the misses overlap. Half of a class's slabs may stay, empty,
  /// for its next burst: to make a slab writes every header in it. Returns the others. Under the class lock.
  @inline(never)
  func stamp(_ c: UnsafeMutablePointer<SizeClass>) -> UnsafeMutablePointer<Slab>? {
    c.pointee.stamp(now())
    guard c.pointee.quarantined >= c.pointee.ringLimit &+ Self.batch else { return nil }
    var empty: UnsafeMutablePointer<Slab>?
    settleResting(
      c, atMost: min(2 * Self.batch, c.pointee.quarantined - c.pointee.ringLimit), keeping: .half, &empty)
    return empty
  }

  /// How many empty slabs a share keeps.
  enum KeptSlabs {
    case half, one, none, all

    func count(_ share: Share) -> Int {
      switch self {
      case .half: max(1, share.pointee.slabCount / 2)
      case .one: 1
      case .none: 0
      case .all: .max
      }
    }
  }

  /// Moves up to so many that have rested, with `early` also those that have not, to the free bits; returns how many: fewer
  /// where the home of one is locked by another thread. Slabs left empty, beyond those kept, are taken off the class and
  /// chained to `empty`. Under the class lock.
  @discardableResult
  func settleResting(
    _ c: Share, atMost count: Int, early: Bool = false, keeping: KeptSlabs,
    _ empty: inout UnsafeMutablePointer<Slab>?
  ) -> Int {
    var done = 0
    // Another share, locked too.
    var other: Share?
    while done < count,
      early ? c.pointee.quarantined > 0 : c.pointee.hasRested(ticks: restTicks, now: now)
    {
      if done & (Self.batch - 1) == 0 { c.pointee.prefetchOldest(Self.batch) }
      guard let slab = c.pointee.upcoming(0)?.slab, let home = slab.home else { break }
      if home != c, home != other {
        if let other { lock(of: other).unlock() }
        other = lock(of: home).tryLock() ? home : nil
        if other == nil || slab.home != home { break }
      }
      settleOldest(c, home, keeping: keeping, &empty)
      done += 1
    }
    if let other { lock(of: other).unlock() }
    return done
  }

  /// Moves the oldest resting block to its slab's free bits. With the locks of both shares.
  private func settleOldest(
    _ c: Share, _ home: Share, keeping: KeptSlabs, _ empty: inout UnsafeMutablePointer<Slab>?
  ) {
    let freed = c.pointee.pop()
    let slab = freed.slab
    slab.setFree(Int(freed.index))
    slab.pointee.busy -= 1
    if slab.pointee.freeCount == 1 { home.pointee.relist(slab) }
    if slab.pointee.busy == 0 {
      home.pointee.emptyCount += 1
      // One is kept.
      if home.pointee.emptyCount > 1 { noteGain() }
      if home.pointee.emptyCount > keeping.count(home) { detach(home, slab, &empty) }
    }
  }

  /// Takes an empty slab off its class, unless damage keeps it. Under the class lock.
  private func detach(
    _ c: UnsafeMutablePointer<SizeClass>, _ slab: UnsafeMutablePointer<Slab>,
    _ empty: inout UnsafeMutablePointer<Slab>?
  ) {
    guard slab.pointee.damaged == 0, !slab.pointee.isSetAside, !slab.pointee.isDraining else { return }
    c.pointee.emptyCount -= 1
    c.pointee.drop(slab)
    slab.pointee.isInUse = false
    slab.withdrawBits()
    slab.pointee.nextOfClass = empty
    empty = slab
  }

  /// Frees the extents of slabs that no class knows any more.
  func releaseSlabs(_ chain: UnsafeMutablePointer<Slab>?) throws(NVMError) {
    guard chain != nil else { return }
    try extents.withLock { (space) throws(NVMError) in
      var next = chain
      while let slab = next {
        next = slab.pointee.nextOfClass
        let unit = slab.pointee.firstUnit
        let count = slab.pointee.unitCount
        for u in unit..<unit + count { map.setWord(u, 0) }
        // Every block in it is free, so the slab as a whole may go: one store.
        region.store(freeWord(unit, count), at: entry(unit))
        region.flush(entry(unit), count: 8)
        try region.settle()
        space.slabUnits -= count
        giveBack(&space, unit, count)
        noteGain()
        slab.pointee.nextOfClass = space.spareSlabs
        space.spareSlabs = slab
      }
    }
  }

  /// Moves everything that has rested to the free bits. Under the class lock.
  func settleAllRested(_ c: Share) {
    var none: UnsafeMutablePointer<Slab>?
    settleResting(c, atMost: .max, keeping: .all, &none)
  }

  /// How many blocks a thread settles before it takes `units` more: in proportion, so that what each allocation pays for it
  /// is bounded, and of the smallest blocks as many bytes as it takes (those of a slab at least, lest none come free). More
  /// at once would be felt, and who needs more comes again.
  private static func settledAhead(ofUnits units: Int, _ unitShift: Int) -> Int {
    min(max(1 << 10, (units << unitShift) / 64), 1 << 14)
  }

  /// Moves some of what has rested to the free bits: called each time a share has taken its allowance.
  func settleSome() throws(NVMError) {
    let units = (restingByteLimit / Self.looksAtResting) >> unitShift
    var left = Self.settledAhead(ofUnits: units, unitShift)
    for i in 0..<classCount {
      for c in shares.all(i) where left > 0 && c.pointee.restingCount > Self.batch {
        var empty: UnsafeMutablePointer<Slab>?
        lock(of: c).lock()
        left -= settleResting(c, atMost: left, keeping: .half, &empty)
        c.pointee.shrinkRing()
        lock(of: c).unlock()
        try releaseSlabs(empty)
      }
    }
  }

  /// Moves all that rests in a class to the free bits.
  private func settleAll(_ index: Int) throws(NVMError) {
    for c in shares.all(index) {
      var isDone = false
      while !isDone {
        var empty: UnsafeMutablePointer<Slab>?
        lock(of: c).lock()
        settleResting(c, atMost: .max, early: true, keeping: .none, &empty)
        c.pointee.shrinkRing()
        isDone = c.pointee.quarantined == 0
        lock(of: c).unlock()
        try releaseSlabs(empty)
        // Another thread holds the home of a block.
        if !isDone { sched_yield() }
      }
    }
  }

  /// Gives empty slabs back: before the heap grows, those that are known to be empty, one of a class excepted, after some
  /// of what has rested was settled; under space pressure all, and everything that rests is settled first. O(slabs of
  /// classes with such), and of what is settled.
  /// - Parameter units: so many are wanted.
  func reclaimSlabs(for units: Int, underPressure: Bool) throws(NVMError) -> Findings {
    _ = nvm_fetch_add_relaxed(control + Control.searches, 1)
    if underPressure { adoptAll() }
    var findings = Findings()
    var settling = Self.settledAhead(ofUnits: units, unitShift)
    for i in 0..<classCount {
      if underPressure { try settleAll(i) }
      for c in shares.all(i) {
        var empty: UnsafeMutablePointer<Slab>?
        lock(of: c).lock()
        let keeping = underPressure ? 0 : 1
        if !underPressure, settling > 0, c.pointee.quarantined > Self.batch {
          settling -= settleResting(c, atMost: settling, keeping: .one, &empty)
          c.pointee.shrinkRing()
        }
        if c.pointee.quarantined > Self.batch {
          if settling <= 0 { findings.isCut = true }
          findings.restsFor = min(findings.restsFor, c.pointee.restsFor(ticks: restTicks, now: now))
        }
        var next = underPressure || c.pointee.emptyCount > keeping ? c.pointee.anySlab : nil
        while let slab = next, underPressure || c.pointee.emptyCount > keeping {
          next = slab.pointee.nextOfClass
          if !slab.isScanned {
            if !underPressure { continue }
            scan(c, slab)
          }
          if slab.pointee.busy == 0 { detach(c, slab, &empty) }
        }
        lock(of: c).unlock()
        if empty != nil { findings.hasGained = true }
        try releaseSlabs(empty)
      }
    }
    return findings
  }
}
