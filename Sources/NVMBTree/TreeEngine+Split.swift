import CNVM
import NVMRegion

// A split needs no log: the right half is written to a node that nothing refers to, ordered, and then one
// commit word of the left leaf drops the right half, takes in the new entry, and switches to the `next` field
// that leads to the new node.
//
//     L [a b c d e f] → M                       N unreachable
//     N [d e f] → M            flush, order
//     L next* := N; sums; commit word {live = a b c, alternate flipped}      <- atomic
//     flush, fence             L [a b c] → N [d e f] → M
//
// A crash before the commit word leaves N unreachable, that is free: which nodes are in use follows from the
// chain.

extension TreeEngine {
  /// The entries of a set of slots in key order.
  func sortedEntries(_ leaf: Leaf, _ set: UInt64) -> [(slot: Int, entry: Entry)] {
    let n = set.nonzeroBitCount
    guard n > 0 else { return [] }
    return withUnsafeTemporaryAllocation(of: UInt64.self, capacity: Int(NVM_RANK_MAX) + 4) { scratch in
      let heads = scratch.baseAddress!
      let ranks = UnsafeMutableRawPointer(heads + Int(NVM_RANK_MAX)).assumingMemoryBound(to: UInt8.self)
      var rest = set
      for k in 0..<n {
        heads[k] = leaf.head(rest.trailingZeroBitCount)
        rest &= rest &- 1
      }
      nvm_rank(heads, Int32(n), ranks)
      var result = [(slot: Int, entry: Entry)](unsafeUninitializedCapacity: n) { buffer, count in
        var rest = set
        for k in 0..<n {
          let i = rest.trailingZeroBitCount
          rest &= rest &- 1
          let entry = Entry(head: heads[k], word: leaf.word(i), fingerprint: leaf.fingerprint(i))
          (buffer.baseAddress! + Int(ranks[k])).initialize(to: (i, entry))
        }
        count = n
      }
      if keysAreBytes { sortTies(&result) }
      return result
    }
  }

  /// Brings entries whose heads tie into the order of their whole keys.
  private func sortTies(_ entries: inout [(slot: Int, entry: Entry)]) {
    for i in entries.indices.dropFirst() {
      var j = i
      while j > 0, entries[j].entry.head == entries[j - 1].entry.head,
        isOrdered(entries[j].entry, entries[j - 1].entry)
      {
        entries.swapAt(j, j - 1)
        j -= 1
      }
    }
  }

  func isOrdered(_ a: Entry, _ b: Entry) -> Bool {
    if a.head != b.head { return a.head < b.head }
    guard let x = key(a.head, a.word), let y = key(b.head, b.word) else { return false }
    return x.compare(y) < 0
  }

  /// Splits a full, locked leaf and inserts an entry on the way. Two fences (an order and a fence), one under a
  /// group.
  @inline(never)
  func splitAndInsert(
    _ leaf: Leaf, _ old: LeafCommit, _ key: SearchKey, _ word: UInt64, _ fingerprint: UInt8
  ) throws(NVMError) {
    let added = Entry(head: key.head, word: word, fingerprint: fingerprint)
    let entries = sortedEntries(leaf, old.live)
    let at = entries.firstIndex { isOrdered(added, $0.entry) } ?? entries.count
    let next = leaf.next(old.alternate)
    // Ascending inserts at the end of the tree leave full leaves behind.
    let isAppend = at == entries.count && next == 0
    let middle = isAppend ? entries.count : (entries.count + 1) / 2
    try space.checkRoom()
    let right = try takeNode()
    // An entry exactly at the cut goes right, so that the separator is the smaller of both.
    let goesRight = at >= middle
    var moved = entries[middle...].map(\.entry)
    if goesRight { moved.insert(added, at: at - middle) }
    writeLeaf(right, moved, next: next)
    do throws(NVMError) {
      try region.order()
    } catch {
      freeNode(right)
      throw error
    }

    var live = old.live
    for (slot, _) in entries[middle...] { live &= ~(1 << UInt64(slot)) }
    let alternate = !old.alternate
    setNext(leaf, alternate: alternate, right)
    var sum: UInt32 = 0
    var lines: UInt8 = 1 << 7
    if !goesRight {
      // Slots of the old set are not free before the fence; one other is kept for this.
      let slot = (~old.live & LeafLayout.slotMask).trailingZeroBitCount
      fill(leaf, slot, added.head, added.word)
      setFingerprint(leaf, slot, fingerprint)
      live |= 1 << UInt64(slot)
      if slot != 0 {
        let line = LeafLayout.slot(slot) >> 6
        flush(leaf, line: line, words: LeafLayout.slotWords(slot))
        lines |= 1 << UInt8(line)
      }
    }
    sum = self.sum(leaf, live, alternate: alternate)
    try commit(leaf, old, live: live, alternate: alternate, sum: sum, lines: lines)
    notePosition(right)

    // From here the medium holds the split; the inner nodes follow, still under the leaf's lock.
    let first = self.key(moved[0].head, moved[0].word) ?? SearchKey(head: moved[0].head)
    let last = entries[middle - 1].entry
    insertSeparator(first, above: self.key(last.head, last.word), left: leaf.node, right: right)
  }

  /// Stores one of the two `next` fields; the other is left as it is.
  func setNext(_ leaf: Leaf, alternate: Bool, _ next: UInt32) {
    let both = nvm_load_relaxed(leaf.base + LeafLayout.next)
    let new =
      alternate ? both & 0xFFFF_FFFF | UInt64(next) << 32 : both & ~0xFFFF_FFFF | UInt64(next)
    region.store(new, at: leaf.offset + LeafLayout.next)
    flush(leaf, line: LeafLayout.next >> 6, words: LeafLayout.nextWord)
  }
}
