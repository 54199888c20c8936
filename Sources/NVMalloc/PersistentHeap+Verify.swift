import CNVM
import Glibc
public import NVMRegion

extension PersistentHeap {
  /// Reads everything that the heap has on the medium and reports whatever is not as it should be, going on
  /// after each problem: both header copies, every extent head (which tile the heap, so none can overlap
  /// another), every slab's mark, every block header up to it, every root line, every lane; and whether
  /// memory agrees.
  ///
  /// May run beside other work; a step that is under way is not reported. Changes nothing.
  /// - Parameter progress: called now and then with bytes looked at and bytes in all.
  /// - Complexity: O(extents + blocks of slabs).
  public func verify(progress: ((_ done: Int, _ total: Int) -> Void)? = nil) throws(NVMError) -> HeapReport {
    try checkUsable()
    var report = HeapReport()
    verifyHeader(&report)
    verifyRoots(&report)
    verifyLanes(&report)
    adoptAll()
    var heads: [ExtentWalk.Head] = []
    report.problems += extents.withLock { space in
      // Whoever writes heads holds this lock or one of these, so all of them are at rest.
      enterAlone()
      defer { leaveAlone() }
      let walk = ExtentWalk(region, check, space.header, isAtRest: true)
      var found: [ExtentWalk.Head] = []
      var problems = walk.run(heads: &found)
      for head in found { verifyAgainstMemory(head, &problems) }
      heads = found
      return problems
    }
    report.extents = heads.count { $0.kind != nil }
    for head in heads {
      progress?(head.unit << unitShift, unitCount << unitShift)
      if head.kind == .object { report.liveObjects += 1 }
      guard head.kind == .slab, let slab = UnitMap.slab(map.word(head.unit)) else { continue }
      report.slabs += 1
      verifySlab(slab, head.unit, &report)
    }
    return report
  }

  private func verifyHeader(_ report: inout HeapReport) {
    extents.withLock { _ in
      for copy in 0..<2 {
        let at = region.payloadStart + copy * HeapHeaderLayout.copyStride
        let bytes = UnsafeRawBufferPointer(start: region.pointer(to: at), count: HeapHeaderLayout.size)
        if case .valid = HeapHeader.decode(bytes, region: region) { continue }
        report.problems.append(
          HeapProblem(
            .heapHeader, at.rawValue, byteCount: HeapHeaderLayout.size,
            "Copy \(copy == 0 ? "A" : "B") of the heap header is damaged."))
      }
    }
  }

  private func verifyRoots(_ report: inout HeapReport) {
    roots.withLock { table in
      for i in 0..<table.count {
        let at = table.line(i)
        let word = region.load(at + 8)
        let name = word == 0 ? nil : RootTable.name(region, check, at)
        let known = table.index.first { $0.value == i }?.key
        if name != nil { report.roots += 1 }
        guard word != 0 && name == nil || name != known else { continue }
        report.problems.append(
          HeapProblem(.root, at.rawValue, byteCount: RootLine.size, "A line of the root table is damaged."))
      }
    }
  }

  private func verifyLanes(_ report: inout HeapReport) {
    for index in 0..<log.laneCount {
      report.lanes += 1
      // Under the lane's lock no record is on its way.
      log.lock(index).lock()
      let found = log.read(index)
      let expected = log.lanes[index].sequence
      log.lock(index).unlock()
      guard found.pending != nil || found.isBroken || found.sequence != expected else { continue }
      report.problems.append(
        HeapProblem(
          .log, (log.offset + index * log.lineCount * LaneLog.line).rawValue,
          byteCount: log.lineCount * LaneLog.line,
          "Lane \(index) of the log has lost the marker of its last record."))
    }
  }

  /// Compares a head with what memory says of its units. Under the extent lock.
  private func verifyAgainstMemory(_ head: ExtentWalk.Head, _ problems: inout [HeapProblem]) {
    let word = map.word(head.unit)
    let tag = UnitMap.tag(word)
    let agrees =
      switch head.kind {
      case .slab: true  // slabs come and go beside the extent lock; their blocks are compared
      case .object: tag == UnitMap.Tag.object || tag == UnitMap.Tag.objectHeld
      case .free: tag != UnitMap.Tag.object
      default: tag == UnitMap.Tag.other || tag == UnitMap.Tag.objectHeld || head.kind == nil
      }
    if agrees { return }
    problems.append(
      HeapProblem(
        .disagreement, start(ofUnit: head.unit), extent: start(ofUnit: head.unit),
        byteCount: head.length << unitShift, "The head of an extent is not what the heap last wrote."))
  }

  private func verifySlab(_ slab: UnsafeMutablePointer<Slab>, _ unit: Int, _ report: inout HeapReport) {
    var next = 0
    while true {
      guard let home = lockHome(of: slab) else { return }
      defer { lock(of: home).unlock() }
      guard slab.pointee.isInUse, slab.pointee.firstUnit == unit else { return }
      if !slab.isScanned { scan(home, slab) }
      let limit = min(slab.pointee.mark, next + Self.batch)
      while next < limit {
        report.blocks += 1
        var problem: String?
        switch read(slab, next) {
        case .live: report.liveBlocks += 1
        case .vacant:
          // Between its store and its bit an allocation is neither; a bit without a header is wrong.
          if slab.isAllocated(next), case .vacant = read(slab, next), slab.isAllocated(next) {
            problem = "A live block's header says free."
          }
        case .damaged: if !slab.pointee.isSetAside { problem = "The header of a block is damaged." }
        }
        if let problem {
          report.problems.append(
            HeapProblem(
              .blockHeader, slab.offset(next), extent: slab.pointee.base, byteCount: slab.pointee.blockBytes,
              problem))
        }
        next += 1
      }
      if next >= slab.pointee.mark { return }
    }
  }
}
