import CNVM
import NVMRegion

// A bulk load builds a chain of full leaves that nothing refers to, orders it, and hangs it behind the last leaf
// with one commit word: the whole chunk is there, or nothing of it.
//
//     L → end      N1 → N2 → … → Nk → end  unreachable      flush, order
//     L next* := N1; commit word                            <- atomic
//     flush, fence          L → N1 → … → Nk

extension TreeEngine {
  /// Entries of a chunk that becomes visible at once.
  var bulkChunk: Int { 4096 * leafCapacity }

  /// Appends entries in ascending key order, all above the keys that are there. Durable on return; one order and
  /// one fence a call. On a throw nothing was appended.
  func append(_ entries: [Entry]) throws(NVMError) {
    try checkWritable()
    admit()
    let line = try gate.enter()
    defer { gate.leave(line) }
    guard let first = entries.first, let firstKey = key(first.head, first.word) else { return }
    for i in 1..<max(1, entries.count) where !isOrdered(entries[i - 1], entries[i]) { throw orderError() }
    try space.checkRoom()
    var position = lockLast()
    // An empty last leaf keeps the range of what was in it, and the keys may lie before that.
    while leaf(position.leaf).commit.live == 0, innerPath(to: firstKey) != position.leaf {
      unlockUnchanged(position.leaf, position.version)
      try absorbEmptyLeaf(rightOf: firstKey)
      position = lockLast()
    }
    do throws(NVMError) {
      try settleLeaf(position.leaf)
      try append(entries, firstKey, behind: leaf(position.leaf))
    } catch {
      unlock(position.leaf, position.version)
      throw error
    }
    entryCount.add(UInt64(entries.count))
    unlock(position.leaf, position.version)
    try region.acknowledge()
  }

  private func lockLast() -> Position {
    while true {
      let position = descendToLast()
      if tryLock(position) { return position }
      nvm_pause()
    }
  }

  /// Gives the range of an empty leaf to the leaf of `key`, its left neighbour. One fence.
  /// - Throws: `.invalidArgument` where the leaf to the right is not empty.
  private func absorbEmptyLeaf(rightOf key: SearchKey) throws(NVMError) {
    // The way down reads separators of long keys, which are freed by epoch.
    space.epochs.pin()
    defer { space.epochs.unpin() }
    let position = lockLeaf(for: key)
    do throws(NVMError) {
      let leaf = leaf(position.leaf)
      let next = leaf.next(leaf.commit.alternate)
      if next != 0 {
        guard self.leaf(next).commit.live == 0 else { throw orderError() }
        try settleLeaf(position.leaf)
        try mergeRight(leaf, key)
      }
    } catch {
      unlock(position.leaf, position.version)
      throw error
    }
    unlock(position.leaf, position.version)
  }

  private func append(_ entries: [Entry], _ firstKey: SearchKey, behind last: Leaf) throws(NVMError) {
    let old = last.commit
    let present = sortedEntries(last, old.live).last?.entry
    if let present, let key = key(present.head, present.word), key.compare(firstKey) >= 0 {
      throw orderError()
    }
    // An empty last leaf: the key must still fall into its range.
    if innerPath(to: firstKey) != last.node { throw orderError() }
    let leaves = (entries.count + leafCapacity - 1) / leafCapacity
    var nodes: [UInt32] = []
    nodes.reserveCapacity(leaves)
    do throws(NVMError) {
      for _ in 0..<leaves { nodes.append(try takeNode()) }
      for i in 0..<leaves {
        let slice = entries[i * leafCapacity..<min((i + 1) * leafCapacity, entries.count)]
        writeLeaf(nodes[i], slice, next: i + 1 < leaves ? nodes[i + 1] : 0)
      }
      try region.order()
      let alternate = !old.alternate
      setNext(last, alternate: alternate, nodes[0])
      try commit(
        last, old, live: old.live, alternate: alternate, sum: sum(last, old.live, alternate: alternate))
    } catch {
      // Unless the commit itself failed, and then the region takes no more writes, nothing refers to them.
      for node in nodes { freeNode(node) }
      throw error
    }
    for node in nodes { notePosition(node) }
    // Locked until the inner nodes know all of them: meanwhile each stands in for those behind it.
    let versions = nodes.map { lockLeaf($0) }
    defer { for (node, version) in zip(nodes, versions) { unlock(node, version) } }
    var lower = present
    for i in 0..<leaves {
      let entry = entries[i * leafCapacity]
      guard let key = key(entry.head, entry.word) else { continue }
      // Behind an empty leaf nothing tells what lies below: no shorter one than the key itself is sure to separate.
      let below = lower.flatMap { self.key($0.head, $0.word) } ?? key
      insertSeparator(key, above: below, left: i == 0 ? last.node : nodes[i - 1], right: nodes[i])
      lower = entries[min((i + 1) * leafCapacity, entries.count) - 1]
    }
  }

  private func orderError() -> NVMError {
    NVMError(
      code: .invalidArgument,
      message: "A bulk load takes keys in ascending order, above all that are there. Sort the input, or use "
        + "updateValue.", path: region.path)
  }

  /// The slot word of an entry to load; its record, if it needs one, is on its way to the medium.
  func makeEntry(_ key: SearchKey, word: UInt64, bytes: UnsafeRawBufferPointer?) throws(NVMError) -> Entry {
    Entry(
      head: key.head, word: try prepareAhead(key, word: word, bytes: bytes).word, fingerprint: key.fingerprint
    )
  }
}
