import CNVM
import NVMRegion

extension TreeEngine {
  /// The entry of the smallest head at or above `head`, or (`below`) of the greatest at or below it, of a tree whose keys and
  /// values are words. One descent and no sorting. Nil where the leaf that `head` belongs to has none: then it is another
  /// leaf's, or nobody's; a walk finds out. O(log n), flushes nothing, takes no lock.
  @usableFromInline
  func nearest(_ head: UInt64, below: Bool) throws(NVMError) -> (head: UInt64, word: UInt64)? {
    try region.checkUsable()
    guard isReadable else { throw sealedError() }
    if below, isSealed { return nil }
    while true {
      let ticket = try gate.ticket()
      let position = descend(SearchKey(head: head))
      let leaf = leaf(position.leaf)
      let live = leaf.commit.live
      let slot = nearestSlot(head, below: below, in: leaf, live: live)
      let found = (head: leaf.head(slot), word: leaf.word(slot))
      let isTrusted = isTrusted(leaf)
      guard isUnchanged(position), gate.isCurrent(ticket) else { continue }
      guard isTrusted else { throw corruptLeafError(leaf) }
      guard live != 0, below ? found.head <= head : found.head >= head else { return nil }
      try awaitDurable(position.leaf)
      return found
    }
  }

  /// The slot whose head is the first that one comes to from `head` on, going round at the end; 0 where none is live.
  @inline(__always)
  private func nearestSlot(_ head: UInt64, below: Bool, in leaf: Leaf, live: UInt64) -> Int {
    var best = 0
    var least = UInt64.max
    var rest = live
    while rest != 0 {
      let slot = rest.trailingZeroBitCount
      rest &= rest &- 1
      let distance = below ? head &- leaf.head(slot) : leaf.head(slot) &- head
      // A distance of all ones is the farthest there is: of one entry alone it has to count, too.
      if distance <= least { (best, least) = (slot, distance) }
    }
    return best
  }
}
