import CNVM
import NVMRegion

// Taking and giving back extents. All of it under the extent lock; entries written here need no gate, since
// the table moves under the same lock. (Objects are used again as they are without that lock: ObjectShare.)
//
// Taking k units from a run that is one in memory and may be several free extents on the medium, since coalescing
// happens in DRAM only:
//
//     |F ..|F .......|F ..|     as found
//  1  |F ..|F (f ....)|F ..|    entry[i+k] := free, up to where the extent around it ends: inside a free extent, where
//     |                    |    nobody looks. Not needed where i+k heads an extent.
//  2  |F .....|F .....|F ..|    entry[i] := free(k), or the used extent itself: one store; flush, order or fence
//     |    0                    entries within, heads no more, are zeroed with the next change, after that
//
// After each step the heads tile the units, and a crash between them costs nothing. All entries that head no extent are
// zero, but for those that still are to be zeroed and what a crash left. Step 2 is durable before the lock is released:
// the next taker of what follows relies on it, and so does the zeroing.
//
// Between 1 and 2 stands an order, or there is none: an object's entry names the rest behind it (word 4, in the line of
// its commit word). Should that line alone reach the medium, the rest is still known, since its entry is zero there:
//
//     entry[i+k] := free(r), flush;  entry[i] := {words 1, 2; word 4 := r; word 0 := object(k)}, flush;  fence
//
//     neither line   |F ...............|      not allocated
//     i+k only       |F .....(f .......|      not allocated; a head inside a free extent
//     i only         |U ....|0 ........|      allocated; opening writes the head that word 4 names
//     both           |U ....|F ........|      allocated
//
// That entry[i+k] is zero on the medium and not only in the cache MUST be certain: it was, or was made so by a store
// that was settled before. Otherwise the order stays. The name goes with the same fence as the next change of what it
// names, so that a head of later use which rot has zeroed is not taken for the rest.
extension PersistentHeap {
  /// What an extent becomes as soon as it is taken.
  struct ObjectUse {
    var word1: UInt64
    var byteCount: Int
  }

  /// Takes `count` units, starting at a multiple of `alignment` units. On return entry[i] says free(count),
  /// durably ordered before whatever this thread flushes next, and the unit's word says that it is held.
  func acquireExtent(_ count: Int, alignment: Int = 1, reclaiming: Bool = true) throws(NVMError) -> Int {
    try acquireExtent(count, slack: 0, alignment: alignment, reclaiming: reclaiming, use: nil).unit
  }

  /// The same, or commits it at once.
  ///
  /// - Parameters:
  ///   - reclaiming: whether, when nothing else helps, resting blocks and empty slabs of all classes are given back
  ///     first.
  ///   - slack: so many units more may be taken, where that leaves nothing of a run: a split costs a line.
  ///   - use: the object that the extent is to be at once: its entry is written and flushed in the place of free(count).
  /// - Returns: the first unit, and whether all that was written is settled.
  func acquireExtent(
    _ count: Int, slack: Int, alignment: Int, reclaiming: Bool = true, use: ObjectUse?
  ) throws(NVMError) -> (unit: Int, isSettled: Bool) {
    guard count <= ExtentEntry.maximumLength, alignment <= ExtentEntry.maximumLength,
      count &<< unitShift <= region.maximumSize
    else { throw noSpace(count, nil) }
    var failure: NVMError?
    var attempt = 0
    var rounds = 0
    let gains = gains
    // Of a search that was made.
    var findings: Findings?
    while true {
      let found = try extents.withLock { (space) throws(NVMError) -> (unit: Int, isSettled: Bool)? in
        let growing = attempt == 2 || attempt == 1 && !isShort(of: count)
        guard
          let run = try findRun(&space, count, alignment, growing: growing, pressed: attempt > 0, &failure)
        else {
          return nil
        }
        return try carve(&space, run, count, slack, alignment, use)
      }
      if let found { return found }
      if attempt == 1, alignment == 1, let findings {
        noteShortage(of: count, since: gains, findings, cause: failure)
      }
      if attempt == 2 || attempt == 1 && !reclaiming { break }
      if attempt == 0, isShort(of: count) {
        attempt = 1
        continue
      }
      let reclaimed = try reclaimSlabs(for: count, underPressure: attempt == 1)
      rounds += 1
      if attempt == 0 {
        findings = reclaimed
        // What came free may not lie together yet: more of it, before the heap grows.
        if reclaimed.hasGained, rounds < Self.mostRounds { continue }
      }
      attempt += 1
    }
    throw noSpace(count, failure)
  }

  /// So often slabs are given back before the heap grows.
  private static let mostRounds = 16

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

  /// A run that fits: of what is free or spare first, then growth, then what rests, the oldest first.
  private func findRun(
    _ space: inout ExtentSpace, _ count: Int, _ alignment: Int, growing: Bool, pressed: Bool,
    _ failure: inout NVMError?
  ) throws(NVMError) -> Int? {
    limitSpares(&space)
    if let run = space.runs.find(count, alignment: alignment) { return run }
    if giveSparesBack(&space), let run = space.runs.find(count, alignment: alignment) {
      return run
    }
    if !pressed { return nil }
    if growing {
      do throws(NVMError) {
        try grow(&space, count + alignment - 1)
        if let run = space.runs.find(count, alignment: alignment) { return run }
      } catch {
        guard [.outOfSpace, .diskFull, .outOfMemory].contains(error.code) else { throw error }
        failure = error
      }
    }
    while let (unit, length) = popOldestResting() {
      giveBack(&space, unit, length)
      if let run = space.runs.find(count, alignment: alignment) { return run }
    }
    // What another thread has made spare meanwhile.
    return giveSparesBack(&space) ? space.runs.find(count, alignment: alignment) : nil
  }

  /// Takes units off a free run.
  private func carve(
    _ space: inout ExtentSpace, _ run: Int, _ wanted: Int, _ slack: Int, _ alignment: Int, _ use: ObjectUse?
  ) throws(NVMError) -> (unit: Int, isSettled: Bool) {
    var i = run
    var n = space.runs.length(at: i)
    let end = i + n
    space.runs.remove(i)
    map.setWord(i, 0)
    let aligned = (i + alignment - 1) & ~(alignment - 1)
    let count = end - aligned - wanted <= slack ? end - aligned : wanted
    if aligned + count < end {
      nvm_prefetch_write(region.pointer(to: entry(aligned + count)))
    }
    let isTiled = headsTile(i, n, upTo: aligned + count)
    // Heads are about to be made in other ways than by `take`.
    var zeroed = !isTiled || aligned > i ? zeroStaleHeads(&space) : false
    if !isTiled {
      // Rot. Memory knows better what is free.
      noteDamage()
      dropName(of: i)
      try commitFree(i, n)
      for unit in i + 1..<i + n { joinHead(&space, unit) }
      zeroed = zeroStaleHeads(&space) || zeroed
    }
    if aligned > i {
      // What precedes stays free.
      let (last, extentEnd) = lastHead(i, aligned - i)
      if extentEnd > aligned {
        writeFree(aligned, extentEnd - aligned)
        try region.order()
        map.entries[aligned].namedBy = 0
        dropName(of: last)
        try commitFree(last, aligned - last)
      }
      space.runs.insert(i, aligned - i, limit: unitCount)
      n -= aligned - i
      i = aligned
    }
    let isSettled = try take(&space, i, count, use, zeroed: zeroed)
    if n > count { space.runs.insert(i + count, n - count, limit: unitCount) }
    return (i, isSettled)
  }

  /// Steps 1 and 2 for the units that a run starts with. Returns whether all that was written is settled.
  /// - Parameter zeroed: heads have been zeroed under this lock already.
  private func take(
    _ space: inout ExtentSpace, _ unit: Int, _ count: Int, _ use: ObjectUse?, zeroed: Bool
  ) throws(NVMError) -> Bool {
    let (last, end) = lastHead(unit, count)
    let next = unit + count
    let rest = end - next
    // Looked at before heads are zeroed: what is zero then has been so for good.
    let isNamed = rest > 0 && use != nil && !zeroed && region.load(entry(next)) == 0
    let hadStale = zeroStaleHeads(&space, but: next) || zeroed
    if rest > 0 {
      writeFree(next, rest)
      if !isNamed { try region.order() }
      map.entries[next].namedBy = isNamed ? UInt32(unit + 1) : 0
    }
    map.set(unit, tag: UnitMap.Tag.objectHeld, length: count)
    dropName(of: unit)
    var at = unit
    while at != last {
      at += ExtentEntry.length(region.load(entry(at)))
      joinHead(&space, at)
    }
    if let use {
      writeEntry(unit, .object, length: count, use.word1, UInt64(use.byteCount), rest: isNamed ? rest : 0)
      enterObject(unit, count, use.byteCount)
    } else if rest > 0 || last != unit {
      writeFree(unit, count)
    }
    // A taker of the rest, and who zeroes heads, rely on it.
    guard hadStale || rest > 0 || last != unit else { return false }
    try region.settle()
    return true
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

  /// The head of the free extent on the medium that the last of some units belongs to, and where that ends. The first is
  /// a head. O(heads).
  private func lastHead(_ unit: Int, _ count: Int) -> (head: Int, end: Int) {
    var head = unit
    while true {
      let end = head + ExtentEntry.length(region.load(entry(head)))
      if end >= unit + count { return (head, end) }
      head = end
    }
  }

  /// Notes that a head is one no more once what is being written is settled.
  private func joinHead(_ space: inout ExtentSpace, _ unit: Int) {
    map.entries[unit].namedBy = 0
    space.staleHeads.append(unit)
  }

  private func writeFree(_ unit: Int, _ length: Int) {
    region.store(freeWord(unit, length), at: entry(unit))
    region.flush(entry(unit), count: 8)
  }

  private func commitFree(_ unit: Int, _ length: Int) throws(NVMError) {
    writeFree(unit, length)
    try region.order()
  }

  /// Takes back what the entry before a free extent's says about that, which is about to change.
  private func dropName(of unit: Int) {
    let first = Int(map.entries[unit].namedBy) - 1
    guard first >= 0 else { return }
    map.entries[unit].namedBy = 0
    let word = map.word(first)
    let tag = UnitMap.tag(word)
    // What is no object any more names nothing.
    guard tag == UnitMap.Tag.object || tag == UnitMap.Tag.objectHeld, UnitMap.length(word) == unit - first
    else { return }
    region.store(0, at: entry(first) + 32)
    region.flush(entry(first) + 32, count: 8)
  }

  /// Zeroes heads that were joined to the extent before them, by a change that is settled; not the one of a unit that is
  /// to become a head again. Returns whether there were any: then a fence is to come before the lock is released.
  func zeroStaleHeads(_ space: inout ExtentSpace, but next: Int = -1) -> Bool {
    if space.staleHeads.isEmpty { return false }
    for unit in space.staleHeads where unit != next {
      region.store(0, at: entry(unit))
      region.flush(entry(unit), count: 8)
    }
    space.staleHeads.removeAll(keepingCapacity: true)
    return true
  }

  /// Puts units whose head on the medium is free (durably) among the free runs.
  func giveBack(_ space: inout ExtentSpace, _ unit: Int, _ length: Int) {
    map.setWord(unit, 0)
    space.runs.insert(unit, length, limit: unitCount)
  }

  /// Turns a held extent into a used one. Words 1 to 4 go first, into the same line; word 0 is the commit.
  /// With the table gate, the extent lock or the lock of a share of objects.
  /// - Parameter rest: units of the free extent behind that the entry is to name.
  @inline(never)
  func writeEntry(
    _ unit: Int, _ kind: ExtentKind, length: Int, _ word1: UInt64, _ word2: UInt64, _ word3: UInt64 = 0,
    rest: Int = 0
  ) {
    var tally = StoreTally()
    let at = storeEntry(unit, kind, length: length, word1, word2, word3, rest: rest, counting: &tally)
    region.flush(line: at, words: 0b11111, counting: &tally)
    region.count(tally)
  }

  /// The same without the flush, which may come after the lock: should the table have moved meanwhile, what was stored went
  /// with it, flushed.
  @inline(__always)
  func storeEntry(
    _ unit: Int, _ kind: ExtentKind, length: Int, _ word1: UInt64, _ word2: UInt64, _ word3: UInt64 = 0,
    rest: Int = 0, counting tally: inout StoreTally
  ) -> Offset {
    let at = entry(unit)
    region.store(word1, at: at + 8, counting: &tally)
    region.store(word2, at: at + 16, counting: &tally)
    region.store(word3, at: at + 24, counting: &tally)
    let word4 = rest == 0 ? 0 : check.rest(rest, behind: length, at: start(ofUnit: unit))
    region.store(word4, at: at + 32, counting: &tally)
    region.store(
      check.extent(kind, length: length, at: start(ofUnit: unit), word1, word2), at: at, counting: &tally)
    return at
  }

  /// Frees a used extent that nothing refers to: one store, settled on return; then it rests.
  func releaseExtent(_ unit: Int, _ length: Int) throws(NVMError) {
    try extents.withLock { (_) throws(NVMError) in
      region.store(freeWord(unit, length), at: entry(unit))
      region.flush(entry(unit), count: 8)
      try region.settle()
      map.set(unit, tag: UnitMap.Tag.objectHeld, length: length)
    }
    restExtent(unit, length)
  }
}
