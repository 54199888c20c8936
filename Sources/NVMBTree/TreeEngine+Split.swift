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
    withOrder(of: leaf, set) { order in
      order.map { slot in (Int(slot), entry(leaf, Int(slot))) }
    }
  }

  @inline(__always) private func entry(_ leaf: Leaf, _ slot: Int) -> Entry {
    Entry(head: leaf.head(slot), word: leaf.word(slot), fingerprint: leaf.fingerprint(slot))
  }

  /// Runs `body` with the slots of a set in key order.
  @inline(__always)
  private func withOrder<R, E: Error>(
    of leaf: Leaf, _ set: UInt64, _ body: (UnsafeMutableBufferPointer<UInt8>) throws(E) -> R
  ) throws(E) -> R {
    try withUnsafeTemporaryAllocation(of: UInt8.self, capacity: Int(NVM_SLOTS_MAX)) {
      (scratch) throws(E) in
      let n = nvm_slot_order(
        leaf.base + LeafLayout.firstSlot, UInt32(truncatingIfNeeded: set), scratch.baseAddress!)
      let order = UnsafeMutableBufferPointer(rebasing: scratch[..<Int(n)])
      if keysAreBytes { sortTies(of: leaf, order) }
      return try body(order)
    }
  }

  /// Brings slots whose heads tie into the order of their whole keys.
  private func sortTies(of leaf: Leaf, _ order: UnsafeMutableBufferPointer<UInt8>) {
    for i in order.indices.dropFirst() {
      var j = i
      while j > 0, case let (a, b) = (Int(order[j]), Int(order[j - 1])), leaf.head(a) == leaf.head(b),
        isOrdered(entry(leaf, a), entry(leaf, b))
      {
        order.swapAt(j, j - 1)
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
    if keysAreBytes, options.verifiesReads { try checkRecords(of: leaf, old.live) }
    try withOrder(of: leaf, old.live) { (order) throws(NVMError) in
      try split(leaf, old, order, inserting: Entry(head: key.head, word: word, fingerprint: fingerprint))
    }
  }

  /// An entry whose key is damaged could end up in the wrong half, where nobody would look for it again. (Where its value
  /// is, the entry can be given a new one, and the leaf splits again.)
  @inline(never)
  private func checkRecords(of leaf: Leaf, _ live: UInt64) throws(NVMError) {
    var rest = live
    while rest != 0 {
      let i = rest.trailingZeroBitCount
      rest &= rest &- 1
      if let damaged = damagedRecord(leaf.head(i), leaf.word(i)) { throw corruptRecordError(damaged) }
    }
  }

  @inline(__always)
  private func split(
    _ leaf: Leaf, _ old: LeafCommit, _ order: UnsafeMutableBufferPointer<UInt8>, inserting added: Entry
  ) throws(NVMError) {
    let at = place(of: added, in: leaf, order)
    let next = leaf.next(old.alternate)
    // Ascending inserts at the end of the tree leave full leaves behind.
    let isAppend = at == order.count && next == 0
    let middle = isAppend ? order.count : (order.count + 1) / 2
    try space.checkRoom()
    let right = try takeNode()
    // An entry exactly at the cut goes right, so that the separator is the smaller of both.
    let goesRight = at >= middle
    var moved: UInt64 = 0
    for k in middle..<order.count { moved |= 1 &<< UInt64(order[k]) }
    writeLeaf(right, from: leaf, moved, adding: goesRight ? added : nil, next: next)
    do throws(NVMError) {
      try region.order()
    } catch {
      freeNode(right)
      throw error
    }

    var live = old.live & ~moved
    let alternate = !old.alternate
    setNext(leaf, alternate: alternate, right)
    var lines: UInt8 = 1 << 7
    if !goesRight {
      // Slots of the old set are not free before the fence; one other is kept for this.
      let slot = (~old.live & LeafLayout.slotMask).trailingZeroBitCount
      fill(leaf, slot, added.head, added.word)
      setFingerprint(leaf, slot, added.fingerprint)
      live |= 1 << UInt64(slot)
      if slot != 0 {
        let line = LeafLayout.slot(slot) >> 6
        flush(leaf, line: line, words: LeafLayout.slotWords(slot))
        lines |= 1 << UInt8(line)
      }
    }
    try commit(
      leaf, old, live: live, alternate: alternate, sum: sum(leaf, live, alternate: alternate), lines: lines)
    notePosition(right)

    // From here the medium holds the split; the inner nodes follow, still under the leaf's lock.
    let first = at == middle ? added : entry(leaf, Int(order[middle]))
    let last = entry(leaf, Int(order[middle - 1]))
    insertSeparator(
      self.key(first.head, first.word) ?? SearchKey(head: first.head), above: self.key(last.head, last.word),
      left: leaf.node, right: right)
  }

  /// How many entries come before `added`.
  @inline(__always)
  private func place(of added: Entry, in leaf: Leaf, _ order: UnsafeMutableBufferPointer<UInt8>) -> Int {
    var low = 0
    var high = order.count
    while low < high {
      let middle = (low &+ high) &>> 1
      let slot = Int(order[middle])
      let isBelow =
        leaf.head(slot) != added.head
        ? leaf.head(slot) < added.head : !isOrdered(added, entry(leaf, slot))
      if isBelow { low = middle &+ 1 } else { high = middle }
    }
    return low
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
