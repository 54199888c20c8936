import CNVM
import Dispatch
import NVMRegion
import NVMalloc
import Synchronization

/// What opening a tree found and did.
public struct TreeRecovery: Sendable {
  /// Leaves in the chain.
  public internal(set) var leaves = 0
  /// Leaves whose last, unacknowledged change had arrived in part and was undone.
  public internal(set) var undoneChanges = 0
  /// Records that no leaf referred to, given back.
  public internal(set) var sweptRecords = 0
  /// Damage found, as sentences; the first few.
  public internal(set) var damage: [String] = []
  /// The chain is damaged: the tree is open for reading only.
  public internal(set) var isSealed = false

  var firstDamage: String { damage.first ?? "" }
}

/// What a scan of one leaf yields: enough to follow and check the chain in DRAM.
struct LeafSummary {
  enum State: UInt8 {
    case whole
    /// Whole, but a change stood half-way in the first line: its words are to be tidied.
    case untidy
    /// The present set is not intact, the one before it is.
    case torn
    case corrupt
  }
  var next: UInt32 = 0
  /// How many entries; and above that, where reads are checked, whether a key that may be the first or the last one is
  /// damaged. In one byte, lest a summary grows by a third.
  private var countAndEdge: UInt8 = 0
  var state: State = .corrupt
  var firstSlot: UInt8 = 0
  var lastSlot: UInt8 = 0
  var firstHead: UInt64 = 0
  var lastHead: UInt64 = 0

  var count: UInt8 {
    get { countAndEdge & 0x7F }
    set { countAndEdge = countAndEdge & 0x80 | newValue }
  }
  var hasDamagedEdge: Bool {
    get { countAndEdge & 0x80 != 0 }
    set { countAndEdge = countAndEdge & 0x7F | (newValue ? 0x80 : 0) }
  }
}

extension TreeEngine {
  /// The state of a leaf by its sums (LeafLayout), without changing it. `mayBeTorn` after an unclean shutdown.
  func examine(_ leaf: Leaf, mayBeTorn: Bool) -> (state: LeafSummary.State, live: UInt64, alternate: Bool) {
    let commit = leaf.commit
    guard commit.raw & ~LeafLayout.usedCommitBits == 0 else { return (.corrupt, 0, false) }
    let low = UInt32(truncatingIfNeeded: leaf.sums)
    let high = UInt32(truncatingIfNeeded: leaf.sums >> 32)
    let present = sum(leaf, commit.live, alternate: commit.alternate)
    if TrustedChecksum.leaf.accepts(present == low) { return (.whole, commit.live, commit.alternate) }
    guard mayBeTorn else { return (.corrupt, commit.live, commit.alternate) }
    if present == high { return (.untidy, commit.live, commit.alternate) }
    if sum(leaf, commit.prev, alternate: commit.prevAlternate) == high {
      return (.torn, commit.prev, commit.prevAlternate)
    }
    return (.corrupt, commit.live, commit.alternate)
  }

  func summarize(_ node: UInt32, mayBeTorn: Bool) -> LeafSummary {
    let leaf = leaf(node)
    var summary = LeafSummary()
    // A node that was never written.
    if nvm_load_relaxed(leaf.base) == 0, leaf.sums == 0 { return summary }
    let (state, live, alternate) = examine(leaf, mayBeTorn: mayBeTorn)
    summary.state = state
    summary.next = leaf.next(alternate)
    summary.count = UInt8(live.nonzeroBitCount)
    guard state != .corrupt, live != 0 else { return summary }
    var rest = live & (live - 1)
    var first = live.trailingZeroBitCount
    var last = first
    var firstHead = leaf.head(first)
    var lastHead = firstHead
    // Which slot is it? A guess would be wrong some times in each leaf.
    while !keysAreBytes, rest != 0 {
      let i = rest.trailingZeroBitCount
      rest &= rest - 1
      let head = leaf.head(i)
      first = head < firstHead ? i : first
      firstHead = min(firstHead, head)
      last = head > lastHead ? i : last
      lastHead = max(lastHead, head)
    }
    while rest != 0 {
      let i = rest.trailingZeroBitCount
      rest &= rest - 1
      let head = leaf.head(i)
      if head < firstHead || (head == firstHead && isLong(head) && sorts(leaf, i, before: first)) {
        (first, firstHead) = (i, head)
      }
      if head > lastHead || (head == lastHead && isLong(head) && sorts(leaf, last, before: i)) {
        (last, lastHead) = (i, head)
      }
    }
    (summary.firstSlot, summary.lastSlot) = (UInt8(first), UInt8(last))
    (summary.firstHead, summary.lastHead) = (firstHead, lastHead)
    if keysAreBytes, options.verifiesReads {
      rest = live
      while rest != 0 {
        let i = rest.trailingZeroBitCount
        rest &= rest - 1
        let head = leaf.head(i)
        guard head == firstHead || head == lastHead else { continue }
        if recordWithDamagedKey(leaf, i) != nil { summary.hasDamagedEdge = true }
      }
    }
    return summary
  }

  private func sorts(_ leaf: Leaf, _ a: Int, before b: Int) -> Bool {
    guard let x = key(leaf.head(a), leaf.word(a)), let y = key(leaf.head(b), leaf.word(b)) else {
      return false
    }
    return x.compare(y) < 0
  }

  /// Rebuilds all DRAM state from the medium. Before the tree is shared. O(leaves), in parallel; repairs at most
  /// the leaves that a crash left half-written. May itself be interrupted and repeated.
  func recover(progress: ((Double) -> Void)?) throws(NVMError) {
    let unclean = !region.wasCleanlyClosed
    let extents = try nodeExtents()
    let summaries = scan(extents, mayBeTorn: unclean, progress)
    defer { summaries.deallocate() }
    let places = NodePlaces(extents, unit: heap.extentUnit)
    let guide = guide(extents, summaries, places)
    var guided = 0

    // Follow the chain through the summaries.
    var used = [Bool](repeating: false, count: places.count)
    var chain: [(head: UInt64, tail: UnsafeMutableRawPointer?, node: UInt32)] = []
    chain.reserveCapacity(guide.steps.count)
    var repairs: [(node: UInt32, state: LeafSummary.State)] = []
    var bypassed: [(node: UInt32, before: UInt32, next: UInt32)] = []
    var entries = 0
    var node = firstLeaf
    var previousNode: UInt32 = 0
    var previous: (node: UInt32, summary: LeafSummary)?
    // The last leaf of the chain, empty or not.
    var reached: UInt32 = 0
    func seal(_ what: String) {
      recovery.isSealed = true
      chainEnd = reached
      nvm_store_release(sealWord, recovery.leaves == 0 ? 2 : 1)
      recovery.damage.append(what)
    }
    while true {
      var known: Int?
      if guided < guide.steps.count, guide.steps[guided].node == node { known = Int(guide.steps[guided].at) }
      if guided &+ 12 < guide.steps.count {
        nvm_prefetch(UnsafeRawPointer(summaries.baseAddress! + Int(guide.steps[guided &+ 12].at)))
      }
      guided &+= 1
      guard let at = known ?? places[node] else {
        seal("The link after leaf \(previousNode) leads to \(node), which is not one of the tree's nodes.")
        break
      }
      if used[at] {
        seal("The link after leaf \(previousNode) leads back to leaf \(node).")
        break
      }
      used[at] = true
      let summary = summaries[at]
      if summary.state == .corrupt {
        seal("Leaf \(node) at offset \(UInt64(node) << LeafLayout.shift) does not match its checksum.")
        break
      }
      // Between this leaf and the next ones nobody could tell where a key belongs.
      if summary.hasDamagedEdge {
        seal("Leaf \(node) begins or ends with a key that is damaged.")
        break
      }
      if summary.state != .whole { repairs.append((node, summary.state)) }
      if summary.count > 0, let previous, !isBefore(previous, (node, summary)) {
        seal("Leaf \(node) is out of order with the leaf before it.")
        break
      }
      recovery.leaves += 1
      reached = node
      entries += Int(summary.count)
      if summary.count > 0 || node == firstLeaf {
        chain.append(separator(for: node, summary, after: previous))
        if summary.count > 0 { previous = (node, summary) }
        previousNode = node
      } else {
        // An empty leaf that a crash kept from being merged: its neighbour's link goes past it.
        bypassed.append((node, previousNode, summary.next))
        used[at] = false
      }
      guard summary.next != 0 else { break }
      node = summary.next
    }
    entryCount.set(entries)
    if !chain.isEmpty { try buildInner(chain) }
    if recovery.isSealed { lastKnownLeaf = chain.last?.node ?? 0 }

    if !recovery.isSealed {
      try repair(repairs, bypassed)
      nodes.withLock { pool in
        var at = 0
        for extent in extents {
          pool.add(extent, allFree: false)
          for i in 0..<extent.count where !used[at + i] {
            _ = pool.put(extent.first + UInt32(i), keeping: true)
          }
          at += extent.count
        }
      }
      if unclean, !region.isReadOnly { try sweepRecords(chain.map(\.node)) }
    }
    progress?(1)
  }

  /// The extents that hold the tree's leaves, by their first node.
  func nodeExtents() throws(NVMError) -> [NodePool.Extent] {
    var extents: [NodePool.Extent] = []
    try heap.forEachBlock(tag: .treeNodes, owner: owner, includingSmall: false) { (block) throws(NVMError) in
      extents.append(NodePool.Extent(payload: block.payload, byteCount: block.capacity))
    }
    extents.sort { $0.first < $1.first }
    return extents
  }

  /// Walks from the first leaf and from some hundred others, spread evenly over the nodes.
  private func guide(
    _ extents: [NodePool.Extent], _ summaries: UnsafeMutableBufferPointer<LeafSummary>, _ places: NodePlaces
  ) -> ChainGuide {
    var from: [ChainGuide.Step] = []
    if let at = places[firstLeaf] { from.append(ChainGuide.Step(node: firstLeaf, at: UInt32(at))) }
    let stride = max(64, summaries.count / 1024)
    var start = 0
    for extent in extents {
      for i in Swift.stride(from: 0, to: extent.count, by: stride) {
        from.append(ChainGuide.Step(node: extent.first + UInt32(i), at: UInt32(start + i)))
      }
      start += extent.count
    }
    return ChainGuide(summaries, from: from, places)
  }

  /// Summaries of every node of every extent, in the order of the extents; memory is read in sequence.
  func scan(
    _ extents: [NodePool.Extent], mayBeTorn: Bool, _ progress: ((Double) -> Void)?
  ) -> UnsafeMutableBufferPointer<LeafSummary> {
    let total = extents.reduce(0) { $0 + $1.count }
    // Initialised by the pieces, each of its own.
    let summaries = UnsafeMutableBufferPointer<LeafSummary>.allocate(capacity: total)
    // Pieces of some 8,192 nodes (4 MiB), so that cores share the work evenly.
    var pieces: [(first: UInt32, count: Int, at: Int)] = []
    var at = 0
    for extent in extents {
      var done = 0
      while done < extent.count {
        let n = min(8192, extent.count - done)
        pieces.append((extent.first + UInt32(done), n, at))
        done += n
        at += n
      }
    }
    let work = UncheckedBox((pieces: pieces, summaries: summaries, progress: progress))
    let finished = Atomic<Int>(0)
    @Sendable func run(_ i: Int) {
      let (first, count, at) = work.value.pieces[i]
      let summaries = work.value.summaries.baseAddress! + at
      for k in 0..<count {
        // The processor reads ahead too, but not over the end of a page.
        prefetchLeaf(first &+ UInt32(k) &+ 8)
        (summaries + k).initialize(to: summarize(first + UInt32(k), mayBeTorn: mayBeTorn))
      }
      let n = finished.add(1, ordering: .relaxed).newValue
      work.value.progress?(Double(n) / Double(work.value.pieces.count))
    }
    if pieces.count > 1 {
      DispatchQueue.concurrentPerform(iterations: pieces.count, execute: run)
    } else if !pieces.isEmpty {
      run(0)
    }
    return summaries
  }

  func isBefore(_ a: (node: UInt32, summary: LeafSummary), _ b: (node: UInt32, summary: LeafSummary))
    -> Bool
  {
    if a.summary.lastHead != b.summary.firstHead { return a.summary.lastHead < b.summary.firstHead }
    guard let x = lastKey(a), let y = firstKey(b) else { return false }
    return x.compare(y) < 0
  }
  private func firstKey(_ a: (node: UInt32, summary: LeafSummary)) -> SearchKey? {
    key(a.summary.firstHead, leaf(a.node).word(Int(a.summary.firstSlot)))
  }
  private func lastKey(_ a: (node: UInt32, summary: LeafSummary)) -> SearchKey? {
    key(a.summary.lastHead, leaf(a.node).word(Int(a.summary.lastSlot)))
  }

  private func separator(
    for node: UInt32, _ summary: LeafSummary, after previous: (node: UInt32, summary: LeafSummary)?
  ) -> (head: UInt64, tail: UnsafeMutableRawPointer?, node: UInt32) {
    // Of a short key the head says all; reading its slot would cost a miss for each leaf.
    guard node != firstLeaf, summary.count > 0, isLong(summary.firstHead), let key = firstKey((node, summary))
    else {
      return (summary.firstHead, nil, node)
    }
    let (head, tail) = makeSeparator(key, above: previous.flatMap { lastKey($0) })
    return (head, tail, node)
  }

  /// Brings half-written leaves to their settled form and links past empty ones; all durable on return.
  ///
  /// Sums first, then the commit word: with the sums both equal to the sum of the set that holds, either commit
  /// word is read as that set, so a crash in between repairs again to the same.
  private func repair(
    _ repairs: [(node: UInt32, state: LeafSummary.State)],
    _ bypassed: [(node: UInt32, before: UInt32, next: UInt32)]
  ) throws(NVMError) {
    for (node, state) in repairs {
      let leaf = leaf(node)
      let (_, live, alternate) = examine(leaf, mayBeTorn: true)
      let sum = UInt64(sum(leaf, live, alternate: alternate))
      region.store(sum | sum << 32, at: leaf.offset + LeafLayout.sums)
      region.store(LeafCommit(settled: live, alternate: alternate).raw, at: leaf.offset)
      region.flush(leaf.offset, count: 64)
      if state == .torn { recovery.undoneChanges += 1 }
    }
    if !repairs.isEmpty { try region.fence() }
    for (_, before, next) in bypassed {
      let leaf = leaf(before)
      let old = leaf.commit
      setNext(leaf, alternate: !old.alternate, next)
      try commit(
        leaf, old, live: old.live, alternate: !old.alternate,
        sum: sum(leaf, old.live, alternate: !old.alternate))
    }
  }

  /// Frees the records of earlier openings that no leaf refers to: what a crash cut off between the writing of a
  /// record and its link, or between its unlinking and its release.
  private func sweepRecords(_ leaves: [UInt32]) throws(NVMError) {
    guard keysAreBytes || valuesAreBytes else { return }
    var reachable = Set<Offset>()
    for node in leaves {
      let leaf = leaf(node)
      var rest = leaf.commit.live
      while rest != 0 {
        let i = rest.trailingZeroBitCount
        rest &= rest - 1
        if let record = recordOffset(leaf.head(i), leaf.word(i)) { reachable.insert(record) }
      }
    }
    var orphans: [Offset] = []
    try Self.passingDamage { () throws(NVMError) in
      try heap.forEachBlock(tag: .treeRecord, owner: owner) { (block) throws(NVMError) in
        if block.epoch != heap.epoch, !reachable.contains(block.payload) { orphans.append(block.payload) }
      }
    }
    for orphan in orphans {
      try Self.passingDamage { () throws(NVMError) in try heap.deallocate(orphan, durability: .deferred) }
    }
    if !orphans.isEmpty { try region.fence() }
    recovery.sweptRecords = orphans.count
  }
}

/// Carries a value into concurrent code that is known to use it safely.
struct UncheckedBox<Value>: @unchecked Sendable {
  let value: Value
  init(_ value: Value) { self.value = value }
}
