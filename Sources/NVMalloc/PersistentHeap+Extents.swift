import CNVM
import NVMRegion

// Taking and giving back extents. All of it under the extent lock; entries written here need no gate, since
// the table moves under the same lock.
//
// Taking k units from a run of n, whose heads on the medium may be several (coalescing happens in DRAM only):
//
//     |F ..|F .....|F ..|     as found, n units in all
//  1  |F ...............|     entry[i] := free(n)            one store; flush, order
//  2  |F ...............|     entry[i+k] := free(n-k) and zeroes within [i, i+k): inside a free extent, where
//     |      (f ........)     nobody looks; flush, order
//  3  |F ...|F .........|     entry[i] := free(k)            the split, one store; flush, order
//
// Each numbered step leaves heads that tile the units; a crash between two of them costs nothing. After 3 the
// extent belongs to the caller, who turns it into a used one by one more store to entry[i].
extension PersistentHeap {
  /// Takes `count` units, starting at a multiple of `alignment` units. On return entry[i] says free(count),
  /// durably ordered before whatever this thread flushes next, and the unit's word says that it is held.
  ///
  /// - Parameter reclaiming: whether, when nothing else helps, resting blocks and empty slabs of all classes
  ///   are given back first.
  func acquireExtent(_ count: Int, alignment: Int = 1, reclaiming: Bool = true) throws(NVMError) -> Int {
    guard count <= ExtentEntry.maximumLength, alignment <= ExtentEntry.maximumLength,
      count &<< unitShift <= region.maximumSize
    else { throw noSpace(count, nil) }
    var failure: NVMError?
    for attempt in 0..<2 {
      let unit = try extents.withLock { (space) throws(NVMError) -> Int? in
        guard let run = try findRun(&space, count, alignment, &failure) else { return nil }
        return try carve(&space, run, count, alignment)
      }
      if let unit { return unit }
      if attempt == 1 || !reclaiming { break }
      try reclaimSlabs()
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

  /// A run that fits: what has rested first, then growth, then what rests, the oldest first. Where much of
  /// the heap rests, the oldest is used before the region grows.
  private func findRun(
    _ space: inout ExtentSpace, _ count: Int, _ alignment: Int, _ failure: inout NVMError?
  ) throws(NVMError) -> Int? {
    let tick = now()
    while space.oldestHasRested(now: tick, ticks: restTicks), let f = space.popOldest() {
      giveBack(&space, f.unit, f.length)
    }
    if let run = space.runs.find(count, alignment: alignment) { return run }
    if space.quarantinedUnits * 4 < unitCount {
      do throws(NVMError) {
        try grow(&space, count + alignment - 1)
        if let run = space.runs.find(count, alignment: alignment) { return run }
      } catch {
        guard [.outOfSpace, .diskFull, .outOfMemory].contains(error.code) else { throw error }
        failure = error
      }
    }
    while let f = space.popOldest() {
      giveBack(&space, f.unit, f.length)
      if let run = space.runs.find(count, alignment: alignment) { return run }
    }
    guard failure == nil else { return nil }
    do throws(NVMError) {
      try grow(&space, count + alignment - 1)
    } catch {
      guard [.outOfSpace, .diskFull, .outOfMemory].contains(error.code) else { throw error }
      failure = error
    }
    return space.runs.find(count, alignment: alignment)
  }

  private func carve(
    _ space: inout ExtentSpace, _ run: Int, _ count: Int, _ alignment: Int
  ) throws(NVMError) -> Int {
    var i = run
    var n = space.runs.length(at: i)
    space.runs.remove(i)
    map.setWord(i, 0)
    // 1: one head for the whole run.
    if region.load(entry(i)) != freeWord(i, n) { try commitFree(i, n) }
    let aligned = (i + alignment - 1) & ~(alignment - 1)
    if aligned > i {
      // The same split, for the sake of alignment; what precedes stays free.
      zeroHeads(i + 1, aligned)
      region.store(freeWord(aligned, n - (aligned - i)), at: entry(aligned))
      region.flush(entry(aligned), count: 8)
      try region.order()
      try commitFree(i, aligned - i)
      space.runs.insert(i, aligned - i, limit: unitCount)
      n -= aligned - i
      i = aligned
    }
    let zeroed = zeroHeads(i + 1, i + count)
    if n > count {
      // 2
      region.store(freeWord(i + count, n - count), at: entry(i + count))
      region.flush(entry(i + count), count: 8)
      try region.order()
      // 3
      try commitFree(i, count)
      space.runs.insert(i + count, n - count, limit: unitCount)
    } else if zeroed {
      try region.order()
    }
    map.set(i, tag: UnitMap.Tag.objectHeld, length: count)
    return i
  }

  private func commitFree(_ unit: Int, _ length: Int) throws(NVMError) {
    region.store(freeWord(unit, length), at: entry(unit))
    region.flush(entry(unit), count: 8)
    try region.order()
  }

  /// Clears stale heads of absorbed extents in [from, to). O(to - from) reads, few writes.
  @discardableResult
  private func zeroHeads(_ from: Int, _ to: Int) -> Bool {
    var any = false
    var unit = from
    while unit < to {
      if region.load(entry(unit)) != 0 {
        region.store(0, at: entry(unit))
        region.flush(entry(unit), count: 8)
        any = true
      }
      unit += 1
    }
    return any
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
