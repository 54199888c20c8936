import CNVM
public import NVMRegion

// Repair gives up what damage has made unreadable. Each step is one store that leaves the heap at least as well as before,
// so a crash in the middle costs nothing: repair again. One fence at the end makes all of them durable.
//
//     hole, suspect extent      head := free(length)                 what lies there is lost
//     the heap's own areas      head := as the heap header says      nothing is lost
//     slab's mark               := behind the last valid block header; those before it that do not verify := free
//     block header              header := free                       the block is lost
//     root line                 commit word := 0                     name and value are lost
extension PersistentHeap {
  /// Makes damaged space of a heap usable again, which opening only sets aside. The heap must not be open.
  ///
  /// What stands in damaged space is **lost**: copy the file first, and read from the opened heap what can still be read.
  /// Space that is linked to from elsewhere is not known here: an application whose links lead into it must drop them.
  ///
  /// - Returns: what was given up, spot by spot; empty where nothing was damaged.
  /// - Throws: as ``open(_:options:progress:)``, which also says what no repair can mend (both copies of the header, a
  ///   record of the log), and as ``PersistentRegion/checkWritable()``.
  /// - Complexity: O(extents + blocks of slabs).
  @discardableResult
  public static func repair(_ region: PersistentRegion) throws(NVMError) -> [HeapProblem] {
    try region.checkWritable()
    let heap = try open(region)
    defer { heap.close() }
    var problems: [HeapProblem] = []
    for problem in heap.recovery.problems where problem.kind == .heapHeader { problems.append(problem) }
    heap.adoptAll()
    heap.repairRoots(&problems)
    heap.repairExtents(&problems)
    try region.fence()
    return problems
  }

  private func repairRoots(_ problems: inout [HeapProblem]) {
    roots.withLock { table in
      for i in table.damaged {
        region.store(0, at: table.line(i) + 8)
        region.flush(table.line(i) + 8, count: 8)
        problems.append(
          HeapProblem(.root, table.line(i).rawValue, byteCount: RootLine.size, "A named root was given up."))
      }
    }
  }

  private func repairExtents(_ problems: inout [HeapProblem]) {
    var heads: [ExtentWalk.Head] = []
    let walk = extents.withLock { ExtentWalk(region, check, $0.header, isAtRest: true) }
    _ = walk.run(heads: &heads)
    for head in heads {
      if let kind = head.kind, head.isKnownOtherwise {
        writeEntry(head.unit, kind, length: head.length, 0, 0)
        problems.append(
          HeapProblem(
            .extentHead, start(ofUnit: head.unit), extent: start(ofUnit: head.unit),
            byteCount: head.length << unitShift,
            "The head of the heap's own \(kind == .system ? "area" : "table") was written anew."))
      }
      if head.kind == nil || head.isSuspect && head.kind == .free {
        region.store(freeWord(head.unit, head.length), at: entry(head.unit))
        region.flush(entry(head.unit), count: 8)
        problems.append(
          HeapProblem(
            head.kind == nil ? .extentHead : .suspectExtent, start(ofUnit: head.unit),
            extent: start(ofUnit: head.unit), byteCount: head.length << unitShift,
            "The space of a damaged extent is free again."))
      }
      guard head.kind == .slab, let slab = UnitMap.slab(map.word(head.unit)) else { continue }
      repairSlab(slab, head, &problems)
    }
  }

  private func repairSlab(
    _ slab: UnsafeMutablePointer<Slab>, _ head: ExtentWalk.Head, _ problems: inout [HeapProblem]
  ) {
    var mark = head.mark ?? 0
    if head.mark == nil {
      for i in 0..<slab.pointee.blockCount {
        if case .damaged = read(slab, i) { continue }
        mark = i + 1
      }
    }
    for i in 0..<mark {
      guard case .damaged = read(slab, i) else { continue }
      let block = Offset(rawValue: slab.offset(i))
      region.store(
        check.freeBlock(
          lines: slab.pointee.blockBytes >> 6, at: block.rawValue, generation: slab.pointee.generation),
        at: block)
      region.flush(block, count: 8)
      problems.append(
        HeapProblem(
          .blockHeader, block.rawValue, extent: slab.pointee.base, byteCount: slab.pointee.blockBytes,
          "A block with a damaged header is free again."))
    }
    if head.mark == nil {
      let at = entry(head.unit) + 24
      region.store(
        check.mark(UInt32(mark), generation: slab.pointee.generation, at: slab.pointee.base), at: at)
      region.flush(at, count: 8)
      problems.append(
        HeapProblem(
          .slabMark, slab.pointee.base, extent: slab.pointee.base, byteCount: head.length << unitShift,
          "The high-water mark of a slab was found again."))
    }
  }
}
