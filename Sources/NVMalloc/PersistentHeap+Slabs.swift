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

  /// Takes a free block of a class: it belongs to the caller, its header is checked and says free.
  @inline(__always)
  func takeBlock(_ index: Int) throws(NVMError) -> (slab: UnsafeMutablePointer<Slab>, index: Int) {
    let c = classes + index
    let lock = classLock(index)
    while true {
      lock.lock()
      let found = takeFast(c)
      if found != nil { c.pointee.liveBlocks &+= 1 }
      lock.unlock()
      let (slab, i) = if let found { found } else { try takeSlow(c) }
      let block = slab.offset(i)
      let expected = check.freeBlock(
        lines: slab.pointee.blockBytes &>> 6, at: block, generation: slab.pointee.generation)
      if region.load(Offset(rawValue: block)) == expected {
        if let wear { wear.countAllocation(block, slab.pointee.blockBytes) }
        return (slab, i)
      }
      setAside(c, slab)
    }
  }

  @inline(__always)
  private func takeFast(_ c: UnsafeMutablePointer<SizeClass>) -> (UnsafeMutablePointer<Slab>, Int)? {
    if isChoosy { chooseLeastAllocated(c) }
    if let slab = c.pointee.first, slab.pointee.freeCount > 0, let found = takeFree(c, slab) { return found }
    if c.pointee.quarantined >= c.pointee.restingLimit || c.pointee.hasRested(now: now(), ticks: restTicks) {
      let freed = c.pointee.pop()
      // The header of the next one will be wanted soon.
      if let next = c.pointee.oldest {
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
    _ c: UnsafeMutablePointer<SizeClass>
  ) throws(NVMError) -> (UnsafeMutablePointer<Slab>, Int) {
    for attempt in 0..<3 {
      if attempt == 1 { adoptAll() }
      if let found = try search(c, underPressure: attempt == 1) { return found }
      // What an earlier opening left free is looked for, some slabs at a time.
      if attempt == 0, adoptSome(c), let found = try search(c, underPressure: false) { return found }
      do throws(NVMError) {
        try makeSlab(c, reclaiming: attempt == 2)
      } catch {
        guard attempt < 2, error.code == .outOfSpace || error.code == .diskFull else { throw error }
        continue
      }
      break
    }
    // The new slab's blocks are there for all threads.
    return try takeSlow(c)
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
  /// part of that in this class, or where its blocks are pages and more and rest up to their own limit, the class
  /// uses its oldest early from now on: then `true`. Under the class lock.
  private func limitResting(_ c: UnsafeMutablePointer<SizeClass>) -> Bool {
    let limit = restingByteLimit
    if restingBytes > limit {
      c.pointee.restingLimit = max(Self.batch, limit / 16 / c.pointee.blockBytes)
    } else if c.pointee.blockBytes > 4096 {
      c.pointee.restingLimit = max(Self.batch, limit / Self.largeShare / c.pointee.blockBytes)
    } else {
      c.pointee.restingLimit = .max
      return false
    }
    return c.pointee.quarantined >= c.pointee.restingLimit
  }

  /// Of the bytes that may rest, the blocks of one class from 4 KiB on, and the large objects, have this part each.
  static let largeShare = 8

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
  func retire(_ slab: UnsafeMutablePointer<Slab>, _ index: Int) -> UnsafeMutablePointer<Slab>? {
    let c = classes + slab.pointee.classIndex
    let lock = classLock(slab.pointee.classIndex)
    let tick = now()
    lock.lock()
    c.pointee.liveBlocks &-= 1
    c.pointee.push(SizeClass.Freed(slab: slab, index: UInt32(truncatingIfNeeded: index), tick: tick))
    if c.pointee.quarantined < c.pointee.ringLimit &+ Self.batch {
      lock.unlock()
      return nil
    }
    defer { lock.unlock() }
    return settleRested(c, now: tick)
  }

  /// Moves some of what has rested beyond the ring's limit to the free bits, many at a time: their slabs are scattered
  /// over memory, and so the misses overlap. Half of a class's slabs may stay, empty, for its next burst: to make a slab
  /// writes every header in it.
  @inline(never)
  private func settleRested(_ c: UnsafeMutablePointer<SizeClass>, now tick: UInt32) -> UnsafeMutablePointer<
    Slab
  >? {
    c.pointee.prefetchOldest(2 * Self.batch)
    var empty: UnsafeMutablePointer<Slab>?
    let keeping = max(1, c.pointee.slabCount / 2)
    for _ in 0..<2 * Self.batch {
      guard c.pointee.quarantined > c.pointee.ringLimit, c.pointee.hasRested(now: tick, ticks: restTicks)
      else { break }
      settleOldest(c, keeping: keeping, &empty)
    }
    return empty
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
    let tick = now()
    var none: UnsafeMutablePointer<Slab>?
    while c.pointee.hasRested(now: tick, ticks: restTicks) { settleOldest(c, keeping: .max, &none) }
  }

  /// Gives empty slabs back: before the heap grows, those that are known to be empty, one of a class excepted; under
  /// space pressure all, and everything that rests is settled first. O(slabs of classes with such).
  func reclaimSlabs(underPressure: Bool) throws(NVMError) {
    if underPressure { adoptAll() }
    for i in 0..<classCount {
      let c = classes + i
      var empty: UnsafeMutablePointer<Slab>?
      lock(of: c).lock()
      let keeping = underPressure ? 0 : 1
      if underPressure {
        while c.pointee.quarantined > 0 { settleOldest(c, keeping: 0, &empty) }
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
