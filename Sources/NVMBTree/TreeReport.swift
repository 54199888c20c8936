import CNVM
import Glibc
import NVMRegion
import NVMalloc

/// What `verify()` found.
public struct TreeReport: Sendable {
  /// Damage, a sentence each with the place. Empty: the tree is whole.
  public internal(set) var problems: [String] = []
  public internal(set) var leaves = 0
  public internal(set) var entries = 0
  public internal(set) var records = 0
  /// Records of this tree that no entry refers to: some may wait for readers; after a clean opening there are none.
  public internal(set) var unreachableRecords = 0
  public var isClean: Bool { problems.isEmpty }
}

/// Figures of a tree at one moment.
public struct TreeStatistics: Sendable {
  public internal(set) var entries = 0
  public internal(set) var leaves = 0
  /// Free nodes in the tree's extents.
  public internal(set) var freeNodes = 0
  /// Bytes of the extents that hold leaves.
  public internal(set) var nodeBytes = 0
  /// Levels above the leaves.
  public internal(set) var height = 0
  /// Bytes of DRAM for inner nodes and leaf locks; what the separators of long keys take is not in it.
  public internal(set) var memoryBytes = 0
  /// Share of the slots that hold entries.
  public var fill: Double { leaves == 0 ? 0 : Double(entries) / Double(leaves * LeafLayout.slots) }
  /// Unlinked records and separators that wait for readers to end.
  public internal(set) var waitingForReaders = 0
}

extension TreeEngine {
  var statistics: TreeStatistics {
    var s = TreeStatistics()
    s.entries = count
    nodes.withLock { pool in
      s.nodeBytes = pool.nodeCount * LeafLayout.size
      s.freeNodes = pool.freeCount
      s.leaves = pool.nodeCount - pool.freeCount
    }
    s.height = height
    s.memoryBytes =
      innerNodes.withLock { $0 } * (InnerNode.size + (keysAreBytes ? InnerNode.tailSize : 0))
      + s.nodeBytes / LeafLayout.size * (journal == nil ? 8 : 16)
    s.waitingForReaders = waitingForReaders
    return s
  }

  /// Checks every leaf of the chain and every record: checksums, fingerprints, order, the agreement of chain, inner
  /// nodes and count, and that each of the tree's records is referred to at most once. O(n). Writers wait at the
  /// leaf under examination; run it while nobody writes for exact totals.
  func verify() throws(NVMError) -> TreeReport {
    try checkUsable()
    var report = TreeReport()
    report.problems = recovery.damage
    guard isReadable else { return report }
    var seen = Set<UInt32>()
    var referred = Set<Offset>()
    var previous = KeyCopy()
    space.epochs.pin()
    defer {
      space.epochs.unpin()
      previous.release()
    }
    var visited: [Position] = []
    var node = firstLeaf
    var locked: Position?
    while node != 0 {
      guard isInside(node), seen.insert(node).inserted else {
        report.problems.append(
          "The chain leads to leaf \(node), which is outside the region or was visited before.")
        break
      }
      let position = Position(leaf: node, version: lockLeaf(node))
      // Only now: a neighbour that was merged away would still look like a leaf.
      if let locked { unlockUnchanged(locked.leaf, locked.version) }
      locked = position
      visited.append(position)
      let next = check(node, &report, &referred, &previous)
      report.leaves += 1
      guard let next else { break }
      node = next
    }
    if let locked { unlockUnchanged(locked.leaf, locked.version) }
    // Whether nothing was changed since it was looked at.
    func isQuiet() -> Bool {
      visited.allSatisfy { nvm_load_acquire(space.lockWord($0.leaf)) == $0.version }
    }
    if report.isClean, case let counted = count, report.entries != counted, isQuiet() {
      report.problems.append("The leaves hold \(report.entries) entries, but \(counted) are counted.")
    }
    if keysAreBytes || valuesAreBytes {
      var waiting = 0
      for attempt in 0..<9 as Range<UInt32> {
        // A record that a thread is about to enter in a leaf, to retire or to free is not lost; that thread may not run
        // for a while. Half a second at most, and only where space does seem to be lost.
        if attempt > 0 {
          if report.isClean, isQuiet() { usleep(1000 << attempt) } else { break }
        }
        report.unreachableRecords = 0
        try Self.passingDamage { () throws(NVMError) in
          try heap.forEachBlock(tag: .treeRecord, owner: owner) { (block) throws(NVMError) in
            if !referred.contains(block.payload) { report.unreachableRecords += 1 }
          }
        }
        waiting = waitingForReaders
        if report.unreachableRecords <= waiting { break }
      }
      if !region.isReadOnly, report.unreachableRecords > waiting, report.isClean, isQuiet() {
        report.problems.append(
          "\(report.unreachableRecords) records are referred to by no entry, and only \(waiting) wait for "
            + "readers: the others are lost space.")
      }
    }
    return report
  }

  /// Checks one locked leaf; returns the next, or nil where the chain cannot be followed.
  private func check(
    _ node: UInt32, _ report: inout TreeReport, _ referred: inout Set<Offset>, _ previous: inout KeyCopy
  ) -> UInt32? {
    let leaf = leaf(node)
    let commit = leaf.commit
    func problem(_ what: String) {
      report.problems.append("Leaf \(node) at offset \(leaf.offset.rawValue): \(what)")
    }
    let low = UInt32(truncatingIfNeeded: leaf.sums)
    guard commit.raw & ~LeafLayout.usedCommitBits == 0,
      sum(leaf, commit.live, alternate: commit.alternate) == low
    else {
      problem("its content does not match its checksum.")
      return nil
    }
    let entries = sortedEntries(leaf, commit.live)
    report.entries += entries.count
    for (_, entry) in entries {
      if let offset = recordOffset(entry.head, entry.word) {
        guard let record = record(at: offset.rawValue), isIntact(record, at: offset) else {
          problem("the record at offset \(offset.rawValue) is damaged.")
          continue
        }
        report.records += 1
        if !referred.insert(offset).inserted {
          problem("the record at offset \(offset.rawValue) has two entries.")
        }
        if let info = try? heap.info(of: offset), info.tag == .treeRecord, info.owner == owner {
        } else {
          problem("the block at offset \(offset.rawValue) is not a record of this tree.")
        }
      }
      guard let key = key(entry.head, entry.word) else {
        problem("an entry has no readable key.")
        continue
      }
      if key.fingerprint != entry.fingerprint { problem("a fingerprint does not match its key.") }
      if let before = previous.key, before.compare(key) >= 0 { problem("its keys are not in order.") }
      previous.set(key)
      if innerPath(to: key) != node { problem("a key is not found by way of the inner nodes.") }
    }
    return leaf.next(commit.alternate)
  }

  /// Where the inner nodes lead for a key, whose leaf may be locked by the caller.
  func innerPath(to key: SearchKey) -> UInt32 {
    structure.withLock { _ in
      var node = UInt32(truncatingIfNeeded: nvm_load_relaxed(rootWord))
      for _ in 0..<height {
        let inner = space.inner(node)
        node = inner.child(inner.childIndex(for: key))
      }
      return node
    }
  }
}
