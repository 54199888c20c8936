import CNVM
import Glibc
public import NVMRegion

// Opening, in this order:
//
// 1. the heap header: the valid copy with the higher sequence; the other one is mended
// 2. the lanes: what was committed and not retired is carried out again, before anything else is believed
// 3. the extent table, head by head; slabs are only noted: see PendingSlabs, and their blocks are read when needed
// 4. tables the header does not name, and log extents, are freed
//
// Every step may be cut short and done again. A read-only region is recovered in its private copy.
extension PersistentHeap {
  /// Opens the heap of a region and recovers what a crash interrupted.
  ///
  /// Damaged spots do not keep a heap from opening: they are set aside and listed in ``recovery``.
  /// - Parameter progress: called now and then with units looked at and units in all.
  /// - Throws: `.notARegion` where there is no heap, `.newerFormat`, `.corrupt` when neither header copy
  ///   verifies or the log is damaged, `.outOfMemory`, `.ioFailure`; `.locked` where the heap of a region that may be
  ///   written is open already: two would hand out the same blocks.
  /// - Complexity: O(extents), reading one line of each; independent of the number of small blocks. About 50 ns for
  ///   each slab.
  public static func open(
    _ region: PersistentRegion, options: HeapOptions = HeapOptions(),
    progress: ((_ done: Int, _ total: Int) -> Void)? = nil
  ) throws(NVMError) -> PersistentHeap {
    try region.checkUsable()
    let began = ContinuousClock.now
    var recovery = HeapRecovery()
    guard region.isReadOnly || region.takeHeap() else {
      throw NVMError(
        code: .locked, message: "The heap of this region is open already. Use that one, or close it first.",
        path: region.path)
    }
    let heap: PersistentHeap
    do throws(NVMError) {
      heap = try recover(region, options, &recovery)
    } catch {
      if !region.isReadOnly { region.giveHeapBack() }
      throw error
    }
    // From here on closing gives it back, or the end of the object.
    try heap.adopt(&recovery, progress)
    recovery.duration = ContinuousClock.now - began
    heap.recovery = recovery
    return heap
  }

  /// Steps 1 and 2.
  private static func recover(
    _ region: PersistentRegion, _ options: HeapOptions, _ recovery: inout HeapRecovery
  ) throws(NVMError) -> PersistentHeap {
    let (header, copy) = try chooseHeader(region, &recovery)
    let log = LaneLog(
      region, offset: header.lanesOffset, laneCount: header.laneCount, laneSize: header.laneSize)
    recovery.replayedRecords = try log.recover()
    let roots = RootTable.read(
      region, HeaderCheck(region.uuid), offset: header.rootsOffset, count: header.rootCount)
    for i in roots.damaged {
      recovery.problems.append(
        HeapProblem(.root, roots.line(i).rawValue, byteCount: 64, "A line of the root table is damaged."))
    }
    let most = min(max(region.maximumSize >> header.unitShift, header.unitCount), ExtentEntry.maximumLength)
    let map = try UnitMap.make(
      wanted: most, needed: header.unitCount, path: region.path)
    return PersistentHeap(
      region: region, options: options, header: header, newestCopy: copy, map: map, log: log, roots: roots)
  }

  private static func chooseHeader(
    _ region: PersistentRegion, _ recovery: inout HeapRecovery
  ) throws(NVMError) -> (HeapHeader, copy: Int) {
    guard region.contains(region.payloadStart, count: HeapHeaderLayout.areaSize) else {
      throw NVMError(code: .notARegion, message: "The region is too small to hold a heap.", path: region.path)
    }
    let copies = (0..<2).map { copy in
      HeapHeader.decode(
        UnsafeRawBufferPointer(
          start: region.pointer(to: region.payloadStart + copy * HeapHeaderLayout.copyStride),
          count: HeapHeaderLayout.size), region: region)
    }
    for case .newer(let version) in copies {
      throw NVMError(
        code: .newerFormat,
        message:
          "The heap was written by a newer release (format \(version)). Open it with that release or later.",
        path: region.path)
    }
    let valid = copies.enumerated().compactMap { i, copy in
      if case .valid(let header) = copy { (i, header) } else { nil }
    }
    guard let (copy, header) = valid.max(by: { $0.1.sequence < $1.1.sequence }) else {
      if copies.allSatisfy({ if case .absent = $0 { true } else { false } }) {
        throw NVMError(
          code: .notARegion, message: "The region holds no heap. Format one in it.", path: region.path)
      }
      throw NVMError(
        code: .corrupt,
        message: "Both copies of the heap header are damaged. Restore the file from a backup.",
        path: region.path, offset: region.payloadStart.rawValue)
    }
    if valid.count < 2 || !valid[0].1.isSame(as: valid[1].1) {
      // The other copy follows. After a crash it may rightly be older or torn; after a clean close that is
      // rot.
      if valid.count < 2, region.wasCleanlyClosed {
        recovery.problems.append(
          HeapProblem(
            .heapHeader, (region.payloadStart + (1 - copy) * HeapHeaderLayout.copyStride).rawValue,
            byteCount: HeapHeaderLayout.size, "A copy of the heap header was damaged; it was written anew."))
      }
      var next = header
      next.sequence += 1
      try writeHeader(next, copy: 1 - copy, region)
      return (next, 1 - copy)
    }
    return (header, copy)
  }

  /// Takes the heads of the table over into memory; of slabs the place alone.
  private func adopt(
    _ recovery: inout HeapRecovery, _ progress: ((_ done: Int, _ total: Int) -> Void)?
  ) throws(NVMError) {
    var extentCount = 0
    var sweptCount = 0
    recovery.problems += try extents.withLock { (space) throws(NVMError) in
      let walk = ExtentWalk(region, check, space.header, isAtRest: region.wasCleanlyClosed)
      var previous: ExtentWalk.Head?
      return try walk.run(progress: progress) { (head) throws(NVMError) in
        extentCount += 1
        if let previous, previous.rest > 0 { try adoptName(previous, head) }
        previous = head
        switch head.kind {
        case .slab:
          space.slabUnits += head.length
          // One that has room beyond its mark will soon be wanted.
          let blockCount = (head.length << unitShift) / (head.blockLines * 64)
          if head.mark == blockCount, head.length <= Slab.longestPending {
            pending.insert(head.unit)
            shares.first(SizeClasses.index(lines: head.blockLines)).pointee.pendingSlabs += 1
          } else {
            adoptSlab(&space, head)
          }
        case .free:
          if head.isSuspect {
            map.set(head.unit, tag: UnitMap.Tag.other, length: head.length)
            space.setAsideUnits += head.length
          } else {
            space.runs.insert(head.unit, head.length, limit: head.unit + head.length)
          }
        case .object:
          map.set(head.unit, tag: UnitMap.Tag.object, length: head.length)
          shares.ownObjects.pointee.countObject(head.length, Int(truncatingIfNeeded: head.word2))
        case .system: map.set(head.unit, tag: UnitMap.Tag.other, length: head.length)
        case .table where start(ofUnit: head.unit) == space.header.tableOffset.rawValue:
          map.set(head.unit, tag: UnitMap.Tag.other, length: head.length)
        case .table, .log:
          sweptCount += 1
          try sweep(&space, head)
        case nil:
          map.set(head.unit, tag: UnitMap.Tag.other, length: head.length)
          space.setAsideUnits += head.length
        }
      }
    }
    recovery.extents = extentCount
    recovery.sweptExtents = sweptCount
  }

  /// Looks after what an object's entry says about the rest behind it: the head that a crash kept from the medium is
  /// written, and what is out of date is taken back.
  private func adoptName(_ object: ExtentWalk.Head, _ next: ExtentWalk.Head) throws(NVMError) {
    if next.kind == .free, next.length == object.rest, next.unit == object.unit + object.length {
      map.entries[next.unit].namedBy = UInt32(object.unit + 1)
      if !next.isUnwritten { return }
      region.store(freeWord(next.unit, next.length), at: entry(next.unit))
      region.flush(entry(next.unit), count: 8)
    } else {
      region.store(0, at: entry(object.unit) + 32)
      region.flush(entry(object.unit) + 32, count: 8)
    }
    try region.settle()
  }

  /// Frees the extent of a log record that is done with, or of a table that the header does not name.
  private func sweep(_ space: inout ExtentSpace, _ head: ExtentWalk.Head) throws(NVMError) {
    region.store(freeWord(head.unit, head.length), at: entry(head.unit))
    region.flush(entry(head.unit), count: 8)
    try region.settle()
    space.runs.insert(head.unit, head.length, limit: head.unit + head.length)
  }
}
