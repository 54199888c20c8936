import CNVM
public import NVMRegion

// Small blocks in memory: taking one, giving one back, and making slabs. The class lock is a spin word and
// guards memory only, but for scanning a slab and formatting a batch of blocks.
extension PersistentHeap {
  /// The class for a payload of `byteCount` after a prefix of `prefix` bytes (16, or the alignment, to which
  /// blocks are then aligned too); `nil` where the block is to be an extent of its own.
  @inline(__always)
  func classIndex(_ byteCount: Int, prefix: Int) -> Int? {
    // Slabs start on a unit: aligned to the unit, a block is an extent of its own (see `extentUnit`).
    if byteCount > largestBlock || prefix >= 1 &<< unitShift { return nil }
    let need = max(byteCount, 1) &+ prefix
    if need > largestBlock { return nil }
    var i = SizeClasses.index(lines: (need &+ 63) &>> 6)
    if prefix > 64 {
      while i < classCount, (SizeClasses.lines(i) &* 64) & (prefix &- 1) != 0 { i &+= 1 }
      if i == classCount { return nil }
    }
    return i
  }

  /// Takes a free block of a class: it belongs to the caller, its header is checked and says free. Where the class can
  /// have none it may be one of a larger class; `nil` where no slab has one and an extent of its own may do.
  @inline(__always)
  func takeBlock(
    _ index: Int, _ byteCount: Int, prefix: Int
  ) throws(NVMError) -> (slab: UnsafeMutablePointer<Slab>, index: Int)? {
    let c = classes + index
    let lock = classLock(index)
    while true {
      lock.lock()
      let fast = takeFast(c)
      if fast != nil { c.pointee.liveBlocks &+= 1 }
      lock.unlock()
      var found = fast
      if found == nil {
        found = try takeSlow(c, byteCount, prefix)
        if found == nil { return nil }
      }
      let (slab, i) = found!
      let block = slab.offset(i)
      let expected = check.freeBlock(
        lines: slab.pointee.blockBytes &>> 6, at: block, generation: slab.pointee.generation)
      if region.load(Offset(rawValue: block)) == expected {
        if let wear { wear.countAllocation(block, slab.pointee.blockBytes) }
        return (slab, i)
      }
      setAside(classes + slab.pointee.classIndex, slab)
    }
  }

  @inline(__always)
  private func takeFast(_ c: UnsafeMutablePointer<SizeClass>) -> (UnsafeMutablePointer<Slab>, Int)? {
    if isChoosy { chooseLeastAllocated(c) }
    if let slab = c.pointee.first, slab.pointee.freeCount > 0, let found = takeFree(c, slab) { return found }
    if c.pointee.quarantined >= c.pointee.restingLimit || c.pointee.hasRested(ticks: restTicks, now: now) {
      let freed = c.pointee.pop()
      // The header of the next but one will be wanted soon: a miss may take longer than a fence.
      if let next = c.pointee.upcoming(1) {
        nvm_prefetch_write(region.pointer(to: Offset(rawValue: next.slab.offset(Int(next.index)))))
      }
      return (freed.slab, Int(truncatingIfNeeded: freed.index))
    }
    return nil
  }

  @inline(__always)
  private func takeFree(
    _ c: UnsafeMutablePointer<SizeClass>, _ slab: UnsafeMutablePointer<Slab>
  ) -> (UnsafeMutablePointer<Slab>, Int)? {
    guard let index = slab.takeFree() else {
      miscounted(c, slab)
      return nil
    }
    if slab.pointee.busy == 0 { c.pointee.emptyCount &-= 1 }
    slab.pointee.busy &+= 1
    if slab.pointee.freeCount == 0 { c.pointee.relist(slab) }
    return (slab, index)
  }

  /// More free blocks were counted than there are bits: the bits are right, and the heap says that it is damaged. Under
  /// the class lock.
  @inline(never)
  private func miscounted(_ c: UnsafeMutablePointer<SizeClass>, _ slab: UnsafeMutablePointer<Slab>) {
    noteDamage()
    c.pointee.relist(slab)
  }

  /// A free hint led to a header that does not say free: the block is not used until a repair.
  @inline(never)
  private func setAside(_ c: UnsafeMutablePointer<SizeClass>, _ slab: UnsafeMutablePointer<Slab>) {
    noteDamage()
    lock(of: c).lock()
    defer { lock(of: c).unlock() }
    slab.pointee.damaged += 1
    slab.pointee.busy -= 1
    if slab.pointee.busy == 0 { c.pointee.emptyCount += 1 }
    c.pointee.liveBlocks -= 1
  }

  /// Scans, formats or makes a slab until a block is found. The order of preference: free since the opening,
  /// rested, never used, a new slab; under pressure the oldest that rests, of this class and then of all.
  @inline(never)
  private func takeSlow(
    _ c: UnsafeMutablePointer<SizeClass>, _ byteCount: Int, _ prefix: Int
  ) throws(NVMError) -> (UnsafeMutablePointer<Slab>, Int)? {
    // What has rested long is not to count as resting.
    if restingBytes > restingByteLimit { try settleSome() }
    for attempt in 0..<3 {
      if attempt == 1 { adoptAll() }
      if let found = try search(c, underPressure: attempt == 1) { return found }
      // What an earlier opening left free is looked for, some slabs at a time.
      if attempt == 0, adoptSome(c), let found = try search(c, underPressure: false) { return found }
      do throws(NVMError) {
        try makeSlab(c, reclaiming: attempt == 2)
      } catch {
        guard error.code == .outOfSpace || error.code == .diskFull else { throw error }
        if attempt < 2 { continue }
        if let found = try takeLarger(c, prefix) { return found }
        // Without a header in front an extent of its own can be smaller than a slab.
        let slabUnits = SizeClasses.slabUnits(
          blockBytes: SizeClasses.lines(c - classes) * 64, unitShift: unitShift, isFirst: true)
        if units(forBytes: byteCount) < slabUnits { return nil }
        throw error
      }
      break
    }
    // The new slab's blocks are there for all threads.
    return try takeSlow(c, byteCount, prefix)
  }

  /// Looks for a block of a larger class, up to twice the size: where no run of units is left for a slab, there may still
  /// be room in slabs that others hold. Blocks are aligned to `prefix` beyond 64.
  private func takeLarger(
    _ c: UnsafeMutablePointer<SizeClass>, _ prefix: Int
  ) throws(NVMError) -> (UnsafeMutablePointer<Slab>, Int)? {
    let own = c - classes
    let lines = SizeClasses.lines(own)
    var i = own + 1
    while i < classCount, SizeClasses.lines(i) <= 2 * lines {
      if prefix <= 64 || (SizeClasses.lines(i) * 64) & (prefix - 1) == 0,
        let found = try search(classes + i, underPressure: true)
      {
        return found
      }
      i += 1
    }
    return nil
  }

  /// Looks through the slabs of a class, scanning and formatting as needed; under pressure what rests counts.
  private func search(
    _ c: UnsafeMutablePointer<SizeClass>, underPressure: Bool
  ) throws(NVMError) -> (UnsafeMutablePointer<Slab>, Int)? {
    let lock = lock(of: c)
    lock.lock()
    defer { lock.unlock() }
    // After opening, full slabs may be many: a new one is had sooner than they are read.
    var scans = underPressure ? Int.max : 4
    while true {
      if let found = takeFast(c) {
        c.pointee.liveBlocks += 1
        return found
      }
      if let slab = c.pointee.first, !slab.isScanned, scans > 0 {
        scans -= 1
        scan(c, slab)
        continue
      }
      if limitResting(c) { continue }
      // Those with room behind the mark stand at the end, once they are scanned.
      guard let slab = c.pointee.last, slab.isScanned else { break }
      try format(c, slab)
    }
    guard underPressure, c.pointee.quarantined > 0 else { return nil }
    let freed = c.pointee.pop()
    c.pointee.liveBlocks += 1
    return (freed.slab, Int(freed.index))
  }

  /// Called before a class takes space that it never used. Where more than the limit rests in the heap, and a fair
  /// part of that in this class, or where its blocks are larger and more of them rest than an eighth of the limit or,
  /// with others resting too, than ``largeLimit(live:)``, the class uses its oldest early from now on: then `true`. Under
  /// the class lock.
  private func limitResting(_ c: UnsafeMutablePointer<SizeClass>) -> Bool {
    let limit = restingByteLimit
    let blockBytes = c.pointee.blockBytes
    let all = restingBytes
    var most = Int.max
    if blockBytes > Self.longestFullRest {
      most = all > limit / 4 ? largeLimit(live: c.pointee.liveBlocks * blockBytes) : limit / 8
    }
    if all > limit { most = min(most, limit / 16) }
    c.pointee.restingLimit = most == .max ? .max : max(Self.fewestResting, most / blockBytes)
    return c.pointee.quarantined >= c.pointee.restingLimit
  }

  /// Blocks up to this size rest for the whole time, as long as the heap's limit is kept: theirs are the headers that an
  /// allocator wears out. Of larger ones the application writes most lines itself.
  static let longestFullRest = 1024
  static let fewestResting = 16

  /// Bytes of one class, or of large objects, that may rest where blocks are larger than ``longestFullRest``: a quarter of
  /// what is live of them, but a 64th of the heap's limit at least, and an eighth at most.
  func largeLimit(live: Int) -> Int {
    let limit = restingByteLimit
    return min(max(live / 4, limit / 64), limit / 8)
  }

  var restingByteLimit: Int { max(options.quarantineLimit, unitCount << unitShift / 8) }

  /// Bytes that rest, of all classes and of large objects. Approximate beside other threads. O(classes).
  var restingBytes: Int {
    var bytes = Int(truncatingIfNeeded: nvm_load_relaxed(control + Control.restingUnits)) << unitShift
    for i in 0..<classCount {
      let count = Int(truncatingIfNeeded: nvm_load_relaxed(classLocks + i * 64 + 8))
      bytes += count * SizeClasses.lines(i) * 64
    }
    return bytes
  }

  /// Sees to it that of up to 64 blocks that may be handed out the one allocated least often comes next. Under the
  /// class lock.
  @inline(never)
  private func chooseLeastAllocated(_ c: UnsafeMutablePointer<SizeClass>) {
    guard let wear else { return }
    if let slab = c.pointee.first, slab.pointee.freeCount > 0 {
      slab.preferFree { wear.allocations(at: slab.offset($0)) }
      return
    }
    let tick = now()
    c.pointee.stamp(tick)
    let early = c.pointee.quarantined >= c.pointee.restingLimit
    c.pointee.preferOldest(of: Self.batch) { freed in
      early || tick &- freed.tick >= restTicks
        ? wear.allocations(at: freed.slab.offset(Int(freed.index))) : nil
    }
  }

  /// Reads the headers of all slabs that were not needed since the opening, one slab at a time: a thread in the background
  /// spares later calls of doing it. Beside other work.
  /// - Parameter progress: called now and then with bytes looked at and bytes in all.
  /// - Complexity: O(units + blocks).
  public func scanSlabs(progress: ((_ done: Int, _ total: Int) -> Void)? = nil) throws(NVMError) {
    try checkUsable()
    adoptAll()
    let end = unitCount
    var unit = 0
    while unit < end {
      if unit & 1023 == 0 {
        try checkUsable()
        progress?(unit << unitShift, end << unitShift)
      }
      if let slab = UnitMap.slab(map.word(unit)), !slab.isScanned, slab.pointee.firstUnit == unit {
        scanNow(slab)
      }
      unit += 1
    }
    progress?(end << unitShift, end << unitShift)
  }

  // MARK: Giving back

  /// Takes a block whose header says free back into memory, to rest. Called by its owner. Returns slabs that are to
  /// be given back, ``releaseSlabs(_:)``, once that header is durable.
  @inline(__always)
  func retire(_ slab: UnsafeMutablePointer<Slab>, _ index: Int) -> UnsafeMutablePointer<Slab>? {
    let c = classes + slab.pointee.classIndex
    let lock = classLock(slab.pointee.classIndex)
    lock.lock()
    c.pointee.liveBlocks &-= 1
    let empty = c.pointee.push(slab, index) ? stamp(c) : nil
    lock.unlock()
    return empty
  }

  /// Gives the blocks freed last their time. Moves some of what has rested beyond the ring's limit to the free bits, many
  /// at a time: their slabs are scattered over memory, and so the misses overlap. Half of a class's slabs may stay, empty,
  /// for its next burst: to make a slab writes every header in it. Returns the others. Under the class lock.
  @inline(never)
  private func stamp(_ c: UnsafeMutablePointer<SizeClass>) -> UnsafeMutablePointer<Slab>? {
    c.pointee.stamp(now())
    guard c.pointee.quarantined >= c.pointee.ringLimit &+ Self.batch else { return nil }
    var empty: UnsafeMutablePointer<Slab>?
    settleRested(
      c, atMost: min(2 * Self.batch, c.pointee.quarantined - c.pointee.ringLimit),
      keeping: max(1, c.pointee.slabCount / 2), &empty)
    return empty
  }

  /// Moves up to so many that have rested to the free bits; returns how many. Under the class lock.
  @discardableResult
  private func settleRested(
    _ c: UnsafeMutablePointer<SizeClass>, atMost count: Int, keeping: Int,
    _ empty: inout UnsafeMutablePointer<Slab>?
  ) -> Int {
    var done = 0
    while done < count, c.pointee.hasRested(ticks: restTicks, now: now) {
      if done & (Self.batch - 1) == 0 { c.pointee.prefetchOldest(Self.batch) }
      settleOldest(c, keeping: keeping, &empty)
      done += 1
    }
    return done
  }

  /// Moves the oldest resting block to its slab's free bits; a slab left empty, beyond `keeping` of them, is
  /// taken off the class and chained to `empty`. Under the class lock.
  private func settleOldest(
    _ c: UnsafeMutablePointer<SizeClass>, keeping: Int, _ empty: inout UnsafeMutablePointer<Slab>?
  ) {
    let freed = c.pointee.pop()
    let slab = freed.slab
    slab.setFree(Int(freed.index))
    slab.pointee.busy -= 1
    if slab.pointee.freeCount == 1 { c.pointee.relist(slab) }
    if slab.pointee.busy == 0 {
      c.pointee.emptyCount += 1
      if c.pointee.emptyCount > keeping { detach(c, slab, &empty) }
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
        slab.pointee.nextOfClass = space.spareSlabs
        space.spareSlabs = slab
      }
    }
  }

  /// Moves everything that has rested to the free bits. Under the class lock.
  func settleAllRested(_ c: UnsafeMutablePointer<SizeClass>) {
    var none: UnsafeMutablePointer<Slab>?
    settleRested(c, atMost: .max, keeping: .max, &none)
  }

  /// What a thread settles at once before the heap grows: more would be felt, and who needs more comes again.
  private static let settledAtOnce = 1 << 14

  /// Moves some of what has rested to the free bits.
  private func settleSome() throws(NVMError) {
    var left = Self.settledAtOnce
    for i in 0..<classCount where left > 0 {
      let c = classes + i
      if nvm_load_relaxed(classLocks + i * 64 + 8) <= UInt64(Self.batch) { continue }
      var empty: UnsafeMutablePointer<Slab>?
      lock(of: c).lock()
      left -= settleRested(c, atMost: left, keeping: max(1, c.pointee.slabCount / 2), &empty)
      c.pointee.shrinkRing()
      lock(of: c).unlock()
      try releaseSlabs(empty)
    }
  }

  /// Gives empty slabs back: before the heap grows, those that are known to be empty, one of a class excepted, after some
  /// of what has rested was settled; under space pressure all, and everything that rests is settled first. O(slabs of
  /// classes with such), and of what is settled.
  func reclaimSlabs(underPressure: Bool) throws(NVMError) {
    if underPressure { adoptAll() }
    var settling = Self.settledAtOnce
    for i in 0..<classCount {
      let c = classes + i
      var empty: UnsafeMutablePointer<Slab>?
      lock(of: c).lock()
      let keeping = underPressure ? 0 : 1
      if underPressure {
        while c.pointee.quarantined > 0 { settleOldest(c, keeping: 0, &empty) }
        c.pointee.shrinkRing()
      } else if settling > 0, c.pointee.quarantined > Self.batch {
        settling -= settleRested(c, atMost: settling, keeping: keeping, &empty)
        c.pointee.shrinkRing()
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
      try releaseSlabs(empty)
    }
  }
}
