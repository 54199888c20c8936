import CNVM
public import NVMRegion

// Small blocks in memory: taking one and giving one back. The class lock, that is, the lock of one of the class's shares, is
// a spin word and guards memory only, but for scanning a slab and formatting a batch of blocks.
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
    while true {
      let c = enter(index)
      let fast = takeFast(c)
      if fast != nil { c.pointee.liveBlocks &+= 1 }
      lock(of: c).unlock()
      var found = fast
      if found == nil {
        found = try takeSlow(index, byteCount, prefix)
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
      setAside(slab)
    }
  }

  @inline(__always)
  private func takeFast(_ c: UnsafeMutablePointer<SizeClass>) -> (UnsafeMutablePointer<Slab>, Int)? {
    if isChoosy { chooseLeastAllocated(c) }
    if let slab = c.pointee.first, slab.pointee.freeCount > 0, let found = takeFree(c, slab) { return found }
    if c.pointee.quarantined >= c.pointee.restingLimit || c.pointee.hasRested(ticks: restTicks, now: now) {
      let freed = c.pointee.pop()
      // The header of the next but one will be wanted soon, and its allocated bit: a miss may take longer than a fence.
      if let next = c.pointee.upcoming(1) {
        let index = Int(truncatingIfNeeded: next.index)
        nvm_prefetch_write(region.pointer(to: Offset(rawValue: next.slab.offset(index))))
        next.slab.prefetchBits(index)
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
    // The next will be wanted soon: see above.
    if let next = slab.nextFree() {
      nvm_prefetch_write(region.pointer(to: Offset(rawValue: slab.offset(next))))
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
  private func setAside(_ slab: UnsafeMutablePointer<Slab>) {
    noteDamage()
    // The block is held, so the slab stays in use.
    guard let c = lockHome(of: slab) else { return }
    defer { lock(of: c).unlock() }
    slab.pointee.damaged += 1
    slab.pointee.busy -= 1
    if slab.pointee.busy == 0 {
      c.pointee.emptyCount += 1
      noteGain()
    }
    c.pointee.liveBlocks -= 1
  }

  /// Scans, formats or makes a slab until a block is found. The order of preference: free since the opening,
  /// rested, never used, a new slab; under pressure the oldest that rests, of this class and then of all.
  @inline(never)
  private func takeSlow(
    _ index: Int, _ byteCount: Int, _ prefix: Int
  ) throws(NVMError) -> (UnsafeMutablePointer<Slab>, Int)? {
    // What has rested long is not to count as resting.
    let c = shares.own(index)
    if c.pointee.allowance <= 0, restingBytes > restingByteLimit { try settleSome() }
    for attempt in 0..<3 {
      if attempt == 1 { adoptAll() }
      if attempt == 0 {
        if let found = try search(c, underPressure: false) { return found }
        // What an earlier opening left free is looked for, some slabs at a time.
        if adoptSome(c), let found = try search(c, underPressure: false) { return found }
        if try takeFromOthers(c), let found = try search(c, underPressure: false) { return found }
      } else {
        for share in shares.all(index) {
          if let found = try search(share, underPressure: attempt == 1) { return found }
        }
      }
      let slabUnits = SizeClasses.slabUnits(
        blockBytes: c.pointee.blockBytes, unitShift: unitShift, isFirst: true)
      if attempt < 2, isShort(of: slabUnits) { continue }
      do throws(NVMError) {
        try makeSlab(c, reclaiming: attempt == 2)
      } catch {
        guard error.code == .outOfSpace || error.code == .diskFull else { throw error }
        if attempt < 2 { continue }
        if let found = try takeLarger(index, prefix) { return found }
        // Without a header in front an extent of its own can be smaller than a slab.
        if units(forBytes: byteCount) < slabUnits { return nil }
        throw error
      }
      break
    }
    // The new slab's blocks are there for all threads.
    return try takeSlow(index, byteCount, prefix)
  }

  /// Looks for a block of a larger class, up to twice the size: where no run of units is left for a slab, there may still
  /// be room in slabs that others hold. Blocks are aligned to `prefix` beyond 64.
  private func takeLarger(
    _ own: Int, _ prefix: Int
  ) throws(NVMError) -> (UnsafeMutablePointer<Slab>, Int)? {
    let lines = SizeClasses.lines(own)
    var i = own + 1
    while i < classCount, SizeClasses.lines(i) <= 2 * lines {
      if prefix <= 64 || (SizeClasses.lines(i) * 64) & (prefix - 1) == 0 {
        for share in shares.all(i) {
          if let found = try search(share, underPressure: true) { return found }
        }
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
    retire(slab, index, to: enter(slab.pointee.classIndex))
  }
  /// The same with the share entered, which is left.
  @inline(__always)
  func retire(
    _ slab: UnsafeMutablePointer<Slab>, _ index: Int, to c: Share
  ) -> UnsafeMutablePointer<Slab>? {
    c.pointee.liveBlocks &-= 1
    let empty = c.pointee.push(slab, index) ? stamp(c) : nil
    lock(of: c).unlock()
    return empty
  }
}
