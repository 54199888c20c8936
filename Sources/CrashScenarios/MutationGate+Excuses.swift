import NVMTesting

// Each argument names what makes the mutant harmless. A line that only an unexplored path needs is not excused.
extension MutationGate {
  /// The argument for each mutant that need not be noticed.
  static let excuses: [Excuse] = heapExcuses + treeExcuses

  private static let heapExcuses: [Excuse] =
    CrashMutation.Kind.allCases.flatMap { kind in
      // The optimiser names the line by its function, or by that which it is inlined into.
      [
        Excuse(
          kind: kind, file: "PersistentHeap+Open.swift", function: "PersistentHeap.sweep(_:)", index: 0,
          reason: releasedLog),
        Excuse(
          kind: kind, file: "PersistentHeap+Open.swift",
          function: "closure #1 in closure #1 in PersistentHeap.adopt(_:)", index: 0, reason: releasedLog),
      ]
    } + [
      Excuse(
        kind: .flushBeforeStore, file: "PersistentHeap+Publish.swift", function: "PersistentHeap.prepare(_:)",
        index: 0,
        reason:
          "The store that misses the flush is word 4 of a large object's entry: what an object of the same length said "
          + "there of the rest behind it. That counts only where the next entry is zero, and the next one is a head."
      ),
      Excuse(
        kind: .dropFlush, file: "PersistentHeap+Extents.swift", function: "PersistentHeap.dropName(of:)",
        index: 0, reason: oldName),
      Excuse(
        kind: .flushBeforeStore, file: "PersistentHeap+Extents.swift",
        function: "PersistentHeap.dropName(of:)", index: 0, reason: oldName),
      Excuse(
        kind: .dropFlush, file: "PersistentHeap+Open.swift", function: "PersistentHeap.adoptName(_:)",
        index: 1, reason: oldName),
      Excuse(
        kind: .flushBeforeStore, file: "PersistentHeap+Open.swift",
        function: "PersistentHeap.adoptName(_:)", index: 1, reason: oldName),
      Excuse(
        kind: .dropFlush, file: "PersistentHeap+Extents.swift",
        function: "closure #1 in PersistentHeap.releaseExtent(_:)", index: 0, reason: releasedLog),
      Excuse(
        kind: .flushBeforeStore, file: "PersistentHeap+Extents.swift",
        function: "closure #1 in PersistentHeap.releaseExtent(_:)", index: 0, reason: releasedLog),
      Excuse(
        kind: .dropFence, file: "PersistentHeap+Extents.swift",
        function: "PersistentHeap.releaseExtent(_:)", index: 0, reason: releasedLog),
      // The same line, as the optimiser names it in other builds.
      Excuse(
        kind: .dropFence, file: "PersistentHeap+Extents.swift",
        function: "closure #1 in PersistentHeap.releaseExtent(_:)", index: 0, reason: releasedLog),
      Excuse(
        kind: .dropFlush, file: "PersistentHeap+Growth.swift", function: "PersistentHeap.moveTable(_:)",
        index: 0, reason: oldTable),
      Excuse(
        kind: .flushBeforeStore, file: "PersistentHeap+Growth.swift",
        function: "PersistentHeap.moveTable(_:)",
        index: 0, reason: oldTable),
      Excuse(
        kind: .dropFlush, file: "PersistentHeap+Growth.swift", function: "PersistentHeap.moveTable(_:)",
        index: 3, reason: releasedLog),
      Excuse(
        kind: .flushBeforeStore, file: "PersistentHeap+Growth.swift",
        function: "PersistentHeap.moveTable(_:)",
        index: 3, reason: releasedLog),
      Excuse(
        kind: .dropFence, file: "PersistentHeap+Growth.swift", function: "PersistentHeap.moveTable(_:)",
        index: 1, reason: releasedLog),
      Excuse(
        kind: .dropFence, file: "PersistentHeap+Repair.swift", function: "static PersistentHeap.repair(_:)",
        index: 0,
        reason:
          "Closing the heap, which follows, fences too. But closing cannot say that the disk failed; this does."
      ),
      Excuse(
        kind: .flushBeforeStore, file: "GroupContent.swift", function: "PersistentRegion.settleGroups(_:)",
        index: 0,
        reason:
          "Only lines that other threads have stored to are flushed here. The store before it by this thread is one "
          + "of its own, which it flushes itself before the fence that settles it."),
      Excuse(
        kind: .dropFence, file: "LaneLog.swift", function: "LaneLog.seal()", index: 0,
        reason:
          "The marker that closing adds repeats what the last marker of the lane says, which was ordered when "
          + "the record was retired. It guards against a line that rots, not against a crash."),
    ]

  private static let oldName =
    "What an object's entry says about the rest behind it counts only where the entry there is zero, and the one that the "
    + "rest has become is flushed beside it. To take the name back guards against a head that rots, not against a crash."

  private static let releasedLog =
    "Only an old table, or space for a record out of line that was retired in order, is released here. While the "
    + "medium still says table or log, each opening frees it, since nothing refers to it. Whoever takes the units stores to "
    + "the same line later, or makes it the inside of an extent whose head is ordered first."

  private static let oldTable =
    "A table comes to space that growth has just added: zero on the medium, but for the heads that a growth left which was "
    + "interrupted. The next one writes its own there, unless it is of another size: only then, with an object that ends at "
    + "the old head and one more crash, is the flush needed. No scenario has all of that."

  private static let treeExcuses: [Excuse] = [
    Excuse(
      kind: .flushBeforeStore, file: "TreeEngine+Nodes.swift", function: "TreeEngine.writeLeaf(_:)",
      index: 1,
      reason:
        "The store that misses the flush is the tree number at the end of the leaf, which nothing reads: "
        + "leaves are found through the extents of their tree, and their sums are keyed with its number."),
    Excuse(
      kind: .flushBeforeStore, file: "TreeRecovery.swift", function: "TreeEngine.repair(_:)", index: 0,
      reason:
        "The store that misses the flush is the settled commit word; the sums before it in the same line "
        + "are durable, both the sum of the set that holds. With them the old commit word reads as that set too, "
        + "and the next change stores to the same line later and flushes it."),
    Excuse(
      kind: .dropFence, file: "TreeEngine+Lifecycle.swift", function: "static TreeEngine.create(in:)",
      index: 0,
      reason:
        "Each caller links the tree by a root or by a catalogue entry in a record: both order what this thread has "
        + "flushed before they store the link. The fence makes the call durable for itself."),
    // With optimisation this is the call where a thread writes back what another has stored; its own lines have a call
    // site of their own, where the mutant is killed. Without, both are this one, and it is killed.
    Excuse(
      kind: .flushBeforeStore, file: "GroupContent.swift", function: "PersistentRegion.flush(_:)", index: 0,
      reason:
        "The lines are those that another thread has stored: there is no store of this thread that the flush could come "
        + "before, so nothing changes."),
  ]
}
