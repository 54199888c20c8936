import CNVM
import NVMRegion

// Taking and giving back extents. All of it under the extent lock; entries written here need no gate, since
// the table moves under the same lock.
//
// Taking k units from a run that is one in memory and may be several free extents on the medium, since coalescing
// happens in DRAM only:
//
//     |F ..|F .......|F ..|     as found
//  1  |F ..|F (f ....)|F ..|    entry[i+k] := free, up to where the extent around it ends: inside a free extent, where
//     |                    |    nobody looks; flush, order. Not needed where i+k heads an extent.
//  2  |F .....|F .....|F ..|    entry[i] := free(k), or the used extent itself: one store; flush, order or fence
//     |    0                    entries within, heads no more, are zeroed after that
//
// After each step the heads tile the units, and a crash between them costs nothing. All entries that head no extent are
// zero, but for a zeroing that a crash took back. Step 2 is durable before the lock is released: the next taker of what
// follows relies on it.
extension PersistentHeap {
  /// Takes `count` units, starting at a multiple of `alignment` units. On return entry[i] says free(count),
  /// durably ordered before whatever this thread flushes next, and the unit's word says that it is held.
  ///
  /// - Parameters:
  ///   - reclaiming: whether, when nothing else helps, resting blocks and empty slabs of all classes are given back
  ///     first.
  ///   - slack: so many units more may be taken, where that leaves nothing of a run: a split costs a fence.
  ///   - commit: writes and flushes the entry of a used extent at once, in the place of free(count); it is told the
  ///     first unit and how many there are.
  func acquireExtent(
    _ count: Int, slack: Int = 0, alignment: Int = 1, reclaiming: Bool = true,
    commit: ((inout ExtentSpace, Int, Int) -> Void)? = nil
  ) throws(NVMError) -> Int {
    guard count <= ExtentEntry.maximumLength, alignment <= ExtentEntry.maximumLength,
      count &<< unitShift <= region.maximumSize
    else { throw noSpace(count, nil) }
    var failure: NVMError?
    for attempt in 0..<3 {
      let unit = try extents.withLock { (space) throws(NVMError) -> Int? in
        guard let run = try findRun(&space, count, alignment, growing: attempt > 0, &failure) else {
          return nil
        }
        return try carve(&space, run, count, slack, alignment, commit)
      }
      if let unit { return unit }
      if attempt == 2 || attempt == 1 && !reclaiming { break }
      try reclaimSlabs(underPressure: attempt == 1)
    }
    throw noSpace(count, failure)
  }

  private func noSpace(_ count: Int, _ cause: NVMError?) -> NVMError {
    let bytes = count > ExtentEntry.maximumLength ? "so much" : "\(count << unitShift) bytes in one piece"
    let isDisk = cause?.code == .diskFull
    return NVMError(
      code: isDisk ? .diskFull : .outOfSpace,
      message: isDisk
        ? "The heap has no room for \(bytes) and the disk is full. Free blocks or make room on the disk."
        : "The heap has no room for \(bytes) and cannot grow that far. Free blocks, or open the region with a "
          + "larger maximum size.",
      path: region.path, underlying: cause)
  }

  /// A run that fits: what has rested first, then growth, then what rests, the oldest first. Where more rests than
  /// ``largeLimit(live:)``, the oldest counts as rested: to go through space that was never used costs more than its wear.
  private func findRun(
    _ space: inout ExtentSpace, _ count: Int, _ alignment: Int, growing: Bool, _ failure: inout NVMError?
  ) throws(NVMError) -> Int? {
    let tick = now()
    let limit = max(largeLimit(live: space.objectUnits << unitShift), restingByteLimit / 16) >> unitShift
    while space.quarantinedUnits > limit || space.oldestHasRested(now: tick, ticks: restTicks),
      let f = space.popOldest()
    {
      giveBack(&space, f.unit, f.length)
    }
    if let run = space.runs.find(count, alignment: alignment) { return run }
    if !growing { return nil }
    do throws(NVMError) {
      try grow(&space, count + alignment - 1)
      if let run = space.runs.find(count, alignment: alignment) { return run }
    } catch {
      guard [.outOfSpace, .diskFull, .outOfMemory].contains(error.code) else { throw error }
      failure = error
    }
    while let f = space.popOldest() {
      giveBack(&space, f.unit, f.length)
      if let run = space.runs.find(count, alignment: alignment) { return run }
    }
    return nil
  }

  /// Takes units off a free run.
  private func carve(
    _ space: inout ExtentSpace, _ run: Int, _ wanted: Int, _ slack: Int, _ alignment: Int,
    _ commit: ((inout ExtentSpace, Int, Int) -> Void)?
  ) throws(NVMError) -> Int {
    var i = run
    var n = space.runs.length(at: i)
    let end = i + n
    space.runs.remove(i)
    map.setWord(i, 0)
    let aligned = (i + alignment - 1) & ~(alignment - 1)
    let count = end - aligned - wanted <= slack ? end - aligned : wanted
    if !headsTile(i, n, upTo: aligned + count) {
      // Rot. Memory knows better what is free.
      noteDamage()
      try commitFree(i, n)
      zeroHeads(Array(i + 1..<i + n))
    }
    if aligned > i {
      // What precedes stays free.
      let last = try prepareSplit(i, aligned - i).last ?? i
      if last + ExtentEntry.length(region.load(entry(last))) > aligned {
        try commitFree(last, aligned - last)
      }
      space.runs.insert(i, aligned - i, limit: unitCount)
      n -= aligned - i
      i = aligned
    }
    let heads = try prepareSplit(i, count)
    map.set(i, tag: UnitMap.Tag.objectHeld, length: count)
    if let commit {
      commit(&space, i, count)
      if !heads.isEmpty || n > count { try region.order() }
    } else if region.load(entry(i)) != freeWord(i, count) {
      try commitFree(i, count)
    }
    zeroHeads(heads)
    if n > count { space.runs.insert(i + count, n - count, limit: unitCount) }
    return i
  }

  /// Whether heads of free extents tile a run as far as `end`. O(heads).
  private func headsTile(_ unit: Int, _ count: Int, upTo end: Int) -> Bool {
    var at = unit
    while at < end {
      let word = region.load(entry(at))
      let length = ExtentEntry.length(word)
      guard length > 0, word == freeWord(at, length) else { return false }
      at += length
    }
    return at <= unit + count
  }

  /// Step 1. Returns the heads within, but for the first.
  private func prepareSplit(_ unit: Int, _ count: Int) throws(NVMError) -> [Int] {
    var heads: [Int] = []
    var at = unit
    while at < unit + count {
      if at > unit { heads.append(at) }
      at += ExtentEntry.length(region.load(entry(at)))
    }
    if at > unit + count {
      region.store(freeWord(unit + count, at - unit - count), at: entry(unit + count))
      region.flush(entry(unit + count), count: 8)
      try region.order()
    }
    return heads
  }

  private func commitFree(_ unit: Int, _ length: Int) throws(NVMError) {
    region.store(freeWord(unit, length), at: entry(unit))
    region.flush(entry(unit), count: 8)
    try region.order()
  }

  /// Clears heads that were joined to the extent before them.
  private func zeroHeads(_ heads: [Int]) {
    for unit in heads {
      region.store(0, at: entry(unit))
      region.flush(entry(unit), count: 8)
    }
  }

  /// Puts units whose head on the medium is free (durably) among the free runs.
  func giveBack(_ space: inout ExtentSpace, _ unit: Int, _ length: Int) {
    map.setWord(unit, 0)
    space.runs.insert(unit, length, limit: unitCount)
  }

  /// Turns a held extent into a used one. Words 1 to 3 go first, into the same line; word 0 is the commit.
  /// With the table gate or the extent lock.
  func writeEntry(
    _ unit: Int, _ kind: ExtentKind, length: Int, _ word1: UInt64, _ word2: UInt64, _ word3: UInt64 = 0
  ) {
    let at = entry(unit)
    region.store(word1, at: at + 8)
    region.store(word2, at: at + 16)
    region.store(word3, at: at + 24)
    region.store(check.extent(kind, length: length, at: start(ofUnit: unit), word1, word2), at: at)
    region.flush(at, count: 32)
  }

  /// Frees a used extent that nothing refers to: one store, settled on return; then it rests.
  func releaseExtent(_ unit: Int, _ length: Int) throws(NVMError) {
    let tick = now()
    try extents.withLock { (space) throws(NVMError) in
      region.store(freeWord(unit, length), at: entry(unit))
      region.flush(entry(unit), count: 8)
      try region.settle()
      map.set(unit, tag: UnitMap.Tag.objectHeld, length: length)
      space.rest(unit, length, tick: tick)
    }
  }

  /// Gives a held extent back whose head still says free.
  func cancelExtent(_ unit: Int, _ length: Int) {
    extents.withLock { $0.rest(unit, length, tick: now()) }
  }
}
