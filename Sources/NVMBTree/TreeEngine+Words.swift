import CNVM
import NVMRegion

// Changes of entries that are two words: the same as the general ones, arranged so that an operation overlaps with the
// fence of the one before.
//
// A processor goes on behind a fence, but it takes in no more than some sixty stores before the fence has ended, and
// nothing behind a locked instruction. So the way down, the search in the leaf and the working out of the change come
// before the lock, and what is stored meanwhile, to the stack too, is kept small. To take the lock then proves that
// the leaf is as it was read.

extension TreeEngine {
  /// As `update`, for a key and a value that are words.
  @usableFromInline
  func updateWord(_ head: UInt64, word: UInt64) throws(NVMError) -> UpdateOutcome {
    // Harmless in a tree that is closed: its nodes stay where they are.
    guard let position = route(head) else { return try updateWordSlowly(head, word: word) }
    let leaf = leaf(position.leaf)
    let old = leaf.commit
    let fingerprint = nvm_fingerprint(head)
    let slot = find(SearchKey(head: head), in: leaf, live: old.live, fingerprint: fingerprint)
    // Two slots free: one of them stays so.
    let free = ~old.live & LeafLayout.slotMask
    guard slot != nil || (free & (free &- 1) != 0 && leafCapacity == LeafLayout.capacity) else {
      return try updateWordSlowly(head, word: word)
    }
    var replaced: UInt64 = 0
    let change: LeafChange
    if let slot {
      replaced = leaf.word(slot)
      change = replacement(of: slot, in: leaf, old, head, word, fingerprint)
    } else {
      change = insertion(into: leaf, old, head, word, fingerprint)
    }
    try checkWritable()
    admit()
    let line = try gate.enter()
    guard tryLock(position) else {
      gate.leave(line)
      return try updateWordSlowly(head, word: word)
    }
    try settle(position, line)
    do throws(NVMError) {
      try carryOut(change, in: leaf, old, head, word, fingerprint)
    } catch {
      unlock(position.leaf, position.version)
      gate.leave(line)
      throw error
    }
    if slot == nil { entryCount.add(1) }
    unlock(position.leaf, position.version)
    gate.leave(line)
    // With no lock held, nor the gate: on a journal this waits for the disk.
    try region.acknowledge()
    return slot == nil ? .inserted : .replaced(replaced)
  }

  /// Settles what is outstanding of a leaf that was just locked, so that it may change; gives lock and gate back where
  /// that fails.
  @inline(__always) private func settle(_ position: Position, _ line: UnsafeMutableRawPointer?)
    throws(NVMError)
  {
    guard isMarked else { return }
    do throws(NVMError) { try settleLeaf(position.leaf) } catch {
      unlockUnchanged(position.leaf, position.version)
      gate.leave(line)
      throw error
    }
  }

  @inline(never)
  private func updateWordSlowly(_ head: UInt64, word: UInt64) throws(NVMError) -> UpdateOutcome {
    try update(SearchKey(head: head), word: word, bytes: nil, condition: .always)
  }

  /// As `remove`, for a key and a value that are words.
  @usableFromInline
  func removeWord(_ head: UInt64) throws(NVMError) -> UpdateOutcome {
    guard let position = route(head) else { return try removeWordSlowly(head) }
    let leaf = leaf(position.leaf)
    let old = leaf.commit
    let fingerprint = nvm_fingerprint(head)
    guard
      let slot = find(SearchKey(head: head), in: leaf, live: old.live, fingerprint: fingerprint),
      // Otherwise it may merge with its neighbour.
      old.count > leafCapacity / 4 + 1
    else { return try removeWordSlowly(head) }
    let word = leaf.word(slot)
    let sum =
      UInt32(truncatingIfNeeded: leaf.sums)
      &- slotHash(leafSeed(leaf.node), slot, head, word, fingerprint)
    let live = old.live & ~(1 &<< UInt64(slot))
    try checkWritable()
    admit()
    let line = try gate.enter()
    guard tryLock(position) else {
      gate.leave(line)
      return try removeWordSlowly(head)
    }
    try settle(position, line)
    do throws(NVMError) {
      try commit(leaf, old, live: live, alternate: old.alternate, sum: sum, words: 0)
    } catch {
      unlock(position.leaf, position.version)
      gate.leave(line)
      throw error
    }
    entryCount.add(0 &- 1)
    unlock(position.leaf, position.version)
    gate.leave(line)
    try region.acknowledge()
    return .replaced(word)
  }

  @inline(never)
  private func removeWordSlowly(_ head: UInt64) throws(NVMError) -> UpdateOutcome {
    try remove(SearchKey(head: head), condition: .always)
  }
}
