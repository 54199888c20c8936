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
  func writeLeaf(_ node: UInt32, _ entries: ArraySlice<Entry>, next: UInt32) {
    var new = begin(node, next: next, firstSlot: entries.count < LeafLayout.slots ? 1 : 0)
    for entry in entries { add(entry.head, entry.word, entry.fingerprint, to: &new) }
    finish(new)
  }

  /// The same with the entries of some slots of another leaf, fewer than all, and one more.
  @inline(__always)
  func writeLeaf(_ node: UInt32, from other: Leaf, _ slots: UInt64, adding added: Entry?, next: UInt32) {
    var new = begin(node, next: next, firstSlot: 1)
    var rest = slots
    while rest != 0 {
      let slot = rest.trailingZeroBitCount
      rest &= rest &- 1
      add(other.head(slot), other.word(slot), other.fingerprint(slot), to: &new)
    }
    if let added { add(added.head, added.word, added.fingerprint, to: &new) }
    finish(new)
  }

  /// A leaf that is being written.
  private struct NewLeaf {
    let leaf: Leaf
    let seed: UInt64
    let next: UInt32
    var slot: Int
    var live: UInt64 = 0
    var sum: UInt32
    /// Of the slots from the last multiple of 8 on.
    var prints: UInt64 = 0
    var tally = StoreTally()
  }

  @inline(__always) private func begin(_ node: UInt32, next: UInt32, firstSlot: Int) -> NewLeaf {
    let seed = leafSeed(node)
    return NewLeaf(leaf: leaf(node), seed: seed, next: next, slot: firstSlot, sum: nextHash(seed, next))
  }

  @inline(__always)
  private func add(_ head: UInt64, _ word: UInt64, _ fingerprint: UInt8, to new: inout NewLeaf) {
    let slot = new.slot
    fill(new.leaf, slot, head, word, counting: &new.tally)
    new.live |= 1 &<< UInt64(slot)
    new.sum &+= slotHash(new.seed, slot, head, word, fingerprint)
    new.prints |= UInt64(fingerprint) &<< (UInt64(slot & 7) &* 8)
    if slot & 7 == 7 { storePrints(&new) }
    new.slot = slot &+ 1
  }
  @inline(__always) private func storePrints(_ new: inout NewLeaf) {
    let at = LeafLayout.fingerprints &+ (new.slot & ~7)
    region.store(new.prints, at: new.leaf.offset + at, counting: &new.tally)
    new.prints = 0
  }

  @inline(__always) private func finish(_ leaf: NewLeaf) {
    var new = leaf
    let at = new.leaf.offset
    // The rest of the fingerprints, whose words may hold anything.
    while new.slot < 32 {
      storePrints(&new)
      new.slot = (new.slot & ~7) &+ 8
    }
    region.store(UInt64(new.next) | UInt64(new.next) << 32, at: at + LeafLayout.next, counting: &new.tally)
    region.store(UInt64(tree), at: at + LeafLayout.tree, counting: &new.tally)
    region.store(UInt64(new.sum) | UInt64(new.sum) << 32, at: at + LeafLayout.sums, counting: &new.tally)
    region.store(LeafCommit(settled: new.live, alternate: false).raw, at: at, counting: &new.tally)
    region.count(new.tally)
    // Lines between the last entry and the last line hold nothing that anybody reads.
    let live = new.live
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
