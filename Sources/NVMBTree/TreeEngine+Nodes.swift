import CNVM
import NVMRegion
import NVMalloc

extension TreeEngine {
  /// A leaf number that nothing refers to. The medium knows nothing of it before a leaf links to it: taking one
  /// costs no fence, unless the tree needs a further extent.
  func takeNode() throws(NVMError) -> UInt32 {
    if let node = nodes.withLock({ $0.take() }) { return node }
    // Extents grow with the tree: an eighth of it, so that the waste stays bounded.
    let have = nodes.withLock { $0.nodeCount } * LeafLayout.size
    let unit = options.extentBytes
    let byteCount = min(max(unit, have / 8 / unit * unit), 8 << 20)
    let payload = try heap.allocate(
      byteCount: byteCount, alignment: heap.extentUnit, tag: .treeNodes, owner: owner,
      durability: nodeDurability)
    // A tree of some megabytes is read at random; the extents of its youth come along with the first large one.
    var spread = [(payload: payload, byteCount: byteCount)]
    defer {
      if byteCount >= 2 << 20 {
        for part in spread { region.useLargePages(part.payload, count: part.byteCount) }
      }
    }
    return nodes.withLock { pool in
      if byteCount >= 2 << 20, !pool.isSpread {
        pool.isSpread = true
        spread += pool.extents.map { ($0.payload, $0.count << Int(LeafLayout.shift)) }
      }
      pool.add(NodePool.Extent(payload: payload, byteCount: byteCount), allFree: true)
      return pool.take()!
    }
  }

  /// With the leaf locked. A journal keeps the order of what is flushed, so nobody needs to wait for the disk there.
  private var nodeDurability: Durability { journal == nil ? .immediate : .deferred }

  /// Gives a node back whose unlinking is durable.
  func freeNode(_ node: UInt32) {
    if let extent = nodes.withLock({ $0.put(node) }) { giveBack(extent) }
  }

  private func giveBack(_ extent: NodePool.Extent) {
    // A failure leaves an extent that names this tree: the next opening counts it in again.
    try? heap.deallocate(extent.payload, durability: nodeDurability)
  }

  /// Gives every unused extent back to the heap.
  func trim() {
    for extent in nodes.withLock({ $0.takeUnused() }) { giveBack(extent) }
  }

  /// Writes a whole leaf that nothing refers to yet and starts its write-back. Entries take slot 1 onwards, which
  /// leaves slot 0 to the next insert, unless all slots are needed. O(entries).
  func writeLeaf(_ node: UInt32, _ entries: some Collection<Entry>, next: UInt32) {
    let leaf = leaf(node)
    let s = leafSeed(node)
    var tally = StoreTally()
    var live: UInt64 = 0
    var sum = nextHash(s, next)
    var prints: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
    withUnsafeMutableBytes(of: &prints) { prints in
      var slot = entries.count < LeafLayout.slots ? 1 : 0
      for entry in entries {
        fill(leaf, slot, entry.head, entry.word, counting: &tally)
        prints[slot] = entry.fingerprint
        live |= 1 << UInt64(slot)
        sum &+= slotHash(s, slot, entry.head, entry.word, entry.fingerprint)
        slot += 1
      }
    }
    let at = leaf.offset
    region.store(prints.0, at: at + 16, counting: &tally)
    region.store(prints.1, at: at + 24, counting: &tally)
    region.store(prints.2, at: at + 32, counting: &tally)
    region.store(prints.3, at: at + 40, counting: &tally)
    region.store(UInt64(next) | UInt64(next) << 32, at: at + LeafLayout.next, counting: &tally)
    region.store(UInt64(tree), at: at + LeafLayout.tree, counting: &tally)
    region.store(UInt64(sum) | UInt64(sum) << 32, at: at + LeafLayout.sums, counting: &tally)
    region.store(LeafCommit(settled: live, alternate: false).raw, at: at, counting: &tally)
    region.count(tally)
    // Lines between the last entry and the last line hold nothing that anybody reads.
    let end = live == 0 ? 64 : min(LeafLayout.slot(64 - live.leadingZeroBitCount), LeafLayout.size - 64)
    region.flush(at, count: end)
    // Slots 25 and up stand in the last line, before `next` and the tree's number.
    let last = live >> 25 == 0 ? LeafLayout.nextWord | LeafLayout.nextWord << 1 : 0xFF
    region.flush(line: at + (LeafLayout.size - 64), words: last)
  }
}

/// An entry on its way between leaves.
struct Entry {
  var head: UInt64
  var word: UInt64
  var fingerprint: UInt8
}
