public import NVMBTree
public import NVMRegion
public import NVMalloc

// What a whole store is:
//
//   the heap verifies; every tree in the catalogue opens and verifies
//   each block tagged treeRoot, treeNodes or treeRecord belongs to the catalogue (tree 1) or to a tree in it
//   each of these trees has one treeRoot block, the one that its entry names
//   each treeRecord block is referred to by exactly one entry of its tree (the tree's own check)
//   a storeLog block exists only while the root "nvm.log" leads to it
//
// so each block of the store is free or reachable, and never both.

/// What ``NVMStore/verify(progress:)`` found.
public struct StoreReport: Sendable {
  public internal(set) var heap: HeapReport
  /// By name. The catalogue itself is not among them; what is wrong with it is in ``problems``.
  public internal(set) var trees: [String: TreeReport] = [:]
  /// Blocks of the store's own tags that nothing leads to.
  public internal(set) var leakedBlocks = 0
  /// Bytes of them.
  public internal(set) var leakedBytes = 0
  /// Everything that is wrong, a sentence each. Empty: the store is whole.
  public internal(set) var problems: [String] = []
  public var isClean: Bool { problems.isEmpty }

  init(heap: HeapReport) { self.heap = heap }
}

extension NVMStore {
  /// Checks the whole store: every block header, every leaf and record of every tree, and that each block is free or
  /// reachable. Writers of its trees wait meanwhile, readers go on. Changes nothing. O(file).
  ///
  /// - Parameter progress: called now and then with the share done, on the calling thread.
  /// - Throws: `.closed`, `.invalidArgument` inside of a transaction. What is wrong with the store is not thrown: it
  ///   is in the report.
  public func verify(progress: ((Double) -> Void)? = nil) throws(NVMError) -> StoreReport {
    try turn.lock("A store cannot be verified inside of a transaction.")
    defer { turn.unlock() }
    var unopened: [String] = []
    let (entries, trees) = try state.withLock {
      (state) throws(NVMError) -> ([String: CatalogueEntry], [String: EncodedTree]) in
      try checkUsable(state)
      var trees: [String: EncodedTree] = [:]
      for (name, entry) in state.entries {
        do throws(NVMError) {
          trees[name] = try openTree(name, entry, &state)
        } catch {
          unopened.append("Tree \"\(name)\" cannot be opened: \(error)")
        }
      }
      return (state.entries, trees)
    }
    var held: [EncodedTree] = []
    defer { for tree in held { tree.release() } }
    for tree in trees.values {
      try tree.hold()
      held.append(tree)
      tree.settle()
    }
    catalogue.trim()
    progress?(0.1)
    var report = StoreReport(heap: try heap.verify())
    report.problems = unopened + report.heap.problems.map { "Heap \($0)" }
    progress?(0.4)
    report.problems += try catalogue.verify().problems.map { "Catalogue: \($0)" }
    for (n, (name, tree)) in trees.sorted(by: { $0.key < $1.key }).enumerated() {
      let found = try tree.verify()
      report.trees[name] = found
      report.problems += found.problems.map { "Tree \"\(name)\": \($0)" }
      progress?(0.4 + 0.5 * Double(n + 1) / Double(trees.count))
    }
    try findLeaks(entries, &report)
    progress?(1)
    return report
  }

  private func findLeaks(_ entries: [String: CatalogueEntry], _ report: inout StoreReport) throws(NVMError) {
    var handles: [UInt32: Offset] = [catalogue.number: catalogue.handle]
    for entry in entries.values { handles[entry.number] = entry.handle }
    // Trees that the application keeps by roots of its own.
    for name in heap.rootNames {
      if let handle = try heap.root(named: name), let block = try? heap.info(of: handle),
        block.tag == .treeRoot
      {
        handles[block.owner.rawValue] = handle
      }
    }
    let log = Offset(rawValue: region.load(logLink))
    var found: Set<UInt32> = []
    var leaks: [BlockInfo] = []
    for tag in [BlockTag.treeRoot, .treeNodes, .treeRecord, .storeLog] {
      do throws(NVMError) {
        try heap.forEachBlock(tag: tag) { (block) throws(NVMError) in
          let isReachable: Bool
          switch tag {
          case .treeRoot:
            isReachable = handles[block.owner.rawValue] == block.payload
            if isReachable { found.insert(block.owner.rawValue) }
          case .storeLog: isReachable = block.payload == log
          default: isReachable = handles[block.owner.rawValue] != nil
          }
          if !isReachable { leaks.append(block) }
        }
      } catch {
        // Damage that the heap's own report names; what is beyond it was looked at nevertheless.
        guard error.code == .corrupt else { throw error }
        if report.heap.isClean { report.problems.append("Heap: \(error)") }
      }
    }
    report.leakedBlocks = leaks.count
    report.leakedBytes = leaks.reduce(0) { $0 + $1.capacity }
    for leak in leaks.prefix(20) {
      report.problems.append(
        "The block at \(leak.payload) (\(leak.capacity) bytes, tag \(leak.tag.rawValue), owner "
          + "\(leak.owner.rawValue)) belongs to no tree: its space is lost.")
    }
    if leaks.count > 20 { report.problems.append("\(leaks.count - 20) more blocks belong to no tree.") }
    for (name, entry) in entries where !found.contains(entry.number) {
      report.problems.append("Tree \"\(name)\" has no header block at \(entry.handle).")
    }
  }
}
