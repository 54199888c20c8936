import CNVM
import NVMRegion

// A removal clears a bit: one line, one fence. A leaf that runs low takes in its right neighbour's entries and
// bypasses it, in one commit of its own:
//
//     L [a] → R [x y] → M
//     L free slots := x y; next* := M; sums; commit word {live = a x y, alternate flipped}   <- atomic
//     flush, fence                      L [a x y] → M        R unreachable, that is free
//
// The fence is the only one: should the commit word arrive without the slots, the sums tell, and L goes back to
// [a] → R. Freed nodes are written again only after that fence.

extension TreeEngine {
  /// Removes the entry of `key`. Durable on return. O(log n); one fence, two where leaves merge.
  /// - Returns: the word that was there (a record it names stays readable while the caller's epoch is pinned).
  @usableFromInline
  func remove(_ key: SearchKey, condition: UpdateCondition) throws(NVMError) -> UpdateOutcome {
    let outcome = try settleRemoval(key, condition: condition)
    try region.acknowledge()
    return outcome
  }

  @inline(__always)
  private func settleRemoval(_ key: SearchKey, condition: UpdateCondition) throws(NVMError) -> UpdateOutcome {
    try checkWritable()
    let hint = key.bytes == nil ? route(key.head) : nil
    admit()
    let line = try gate.enter()
    defer { gate.leave(line) }
    // The way down reads separators of long keys, which are freed by epoch.
    if key.bytes != nil { space.epochs.pin() }
    defer { if key.bytes != nil { space.epochs.unpin() } }
    return try remove(key, condition, hint: hint)
  }

  @inline(__always)
  private func remove(
    _ key: SearchKey, _ condition: UpdateCondition, hint: Position?
  ) throws(NVMError) -> UpdateOutcome {
    let fingerprint = key.fingerprint
    let position = lockLeaf(for: key, hint: hint)
    do throws(NVMError) { try settleLeaf(position.leaf) } catch {
      unlockUnchanged(position.leaf, position.version)
      throw error
    }
    let leaf = leaf(position.leaf)
    let old = leaf.commit
    guard let slot = find(key, in: leaf, live: old.live, fingerprint: fingerprint) else {
      try checkAbsence(of: key, in: leaf, position, fingerprint)
      unlockUnchanged(position.leaf, position.version)
      try awaitDurable(position.leaf)
      return .refused(nil)
    }
    let word = leaf.word(slot)
    switch condition {
    case .always: break
    case .unchanged(word): break
    default:
      unlockUnchanged(position.leaf, position.version)
      try awaitDurable(position.leaf)
      return .refused(word)
    }
    do throws(NVMError) {
      let sum =
        UInt32(truncatingIfNeeded: leaf.sums)
        &- slotHash(leafSeed(leaf.node), slot, key.head, word, fingerprint)
      let live = old.live & ~(1 &<< UInt64(slot))
      try commit(leaf, old, live: live, alternate: old.alternate, sum: sum, words: 0)
      entryCount.add(0 &- 1)
      if live.nonzeroBitCount <= leafCapacity / 4 { try mergeRight(leaf, key) }
    } catch {
      unlock(position.leaf, position.version)
      throw error
    }
    unlock(position.leaf, position.version)
    if let record = recordOffset(key.head, word) { retire(.record(record)) }
    return .replaced(word)
  }

  /// Merges the right neighbour into a locked leaf where both fit well into one. `key` is any key of the leaf's
  /// range. One fence when it merges.
  @inline(never)
  func mergeRight(_ leaf: Leaf, _ key: SearchKey) throws(NVMError) {
    let old = leaf.commit
    let neighbour = leaf.next(old.alternate)
    guard neighbour != 0, height > 0 else { return }
    let right = self.leaf(neighbour)
    let version = lockLeaf(neighbour)
    let other = right.commit
    // Leaves room, so that the next insert does not split again; an empty leaf takes in any neighbour, and any an empty
    // one.
    guard old.live == 0 || other.live == 0 || old.count + other.count <= leafCapacity * 3 / 4 else {
      unlockUnchanged(neighbour, version)
      return
    }
    // Fenced at once, under a group too: the neighbour's node may be written again.
    let span = nvm_group_span()
    if span != nil { nvm_set_group_span(nil) }
    defer { if span != nil { nvm_set_group_span(span) } }
    do throws(NVMError) {
      try settleLeaf(leaf.node)
      try settleLeaf(neighbour)
      try absorb(right, other, into: leaf, old)
    } catch {
      unlock(neighbour, version)
      throw error
    }
    removeRightNeighbour(of: key, left: leaf.node, right: neighbour)
    unlock(neighbour, version)
    freeNode(neighbour)
  }

  /// Commits the union of both leaves, and the right one's `next`, in the left one.
  private func absorb(_ right: Leaf, _ other: LeafCommit, into leaf: Leaf, _ old: LeafCommit) throws(NVMError)
  {
    var live = old.live
    var free = ~old.live & LeafLayout.slotMask
    var lines: UInt8 = 0
    var rest = other.live
    while rest != 0 {
      let from = rest.trailingZeroBitCount
      rest &= rest &- 1
      // From the top, so that slot 0 stays free for the next insert.
      let to = 63 - free.leadingZeroBitCount
      free &= ~(1 << UInt64(to))
      fill(leaf, to, right.head(from), right.word(from))
      setFingerprint(leaf, to, right.fingerprint(from))
      live |= 1 << UInt64(to)
      lines |= 1 << UInt8(LeafLayout.slot(to) >> 6)
    }
    for line in 1..<8 where lines & 1 << UInt8(line) != 0 {
      region.flush(leaf.offset + line * 64, count: 64)
    }
    let alternate = !old.alternate
    setNext(leaf, alternate: alternate, right.next(other.alternate))
    try commit(leaf, old, live: live, alternate: alternate, sum: sum(leaf, live, alternate: alternate))
  }

  /// Removes all entries between two bounds, a leaf at a time: each leaf's part is one atomic step. Durable on
  /// return. O(log n + entries removed); one fence for each leaf touched.
  /// - Returns: how many entries were removed.
  @usableFromInline
  func removeAll(from lower: Bound, to upper: Bound) throws(NVMError) -> Int {
    try checkWritable()
    admit()
    let line = try gate.enter()
    defer { gate.leave(line) }
    var removed = 0
    var lower = lower
    // Keeps the bytes of a long key that `lower` refers to.
    var kept = KeyCopy()
    space.epochs.pin()
    defer {
      space.epochs.unpin()
      kept.release()
    }
    while true {
      let position = lockFirstLeaf(from: lower)
      do throws(NVMError) { try settleLeaf(position.leaf) } catch {
        unlockUnchanged(position.leaf, position.version)
        throw error
      }
      let leaf = leaf(position.leaf)
      let old = leaf.commit
      let next = leaf.next(old.alternate)
      var live = old.live
      var gone: [Entry] = []
      var passedUpper = false
      var greatest: SearchKey?
      for (slot, entry) in sortedEntries(leaf, old.live) {
        guard let key = key(entry.head, entry.word) else { continue }
        if !isAtOrAbove(key, lower) { continue }
        guard isBelow(key, upper) else {
          passedUpper = true
          break
        }
        live &= ~(1 << UInt64(slot))
        gone.append(entry)
        greatest = key
      }
      var continuation = KeyCopy()
      // Where the scan goes on: behind the last removed key; or behind this leaf's range.
      if let greatest { continuation.set(greatest) }
      do throws(NVMError) {
        if live != old.live {
          try commit(
            leaf, old, live: live, alternate: old.alternate, sum: sum(leaf, live, alternate: old.alternate),
            words: 0)
          entryCount.add(0 &- UInt64(gone.count))
          removed += gone.count
          if live.nonzeroBitCount <= leafCapacity / 4, let key = continuation.key {
            try mergeRight(leaf, key)
          }
        }
      } catch {
        unlock(position.leaf, position.version)
        throw error
      }
      // After a merge the leaf may hold entries of its former neighbour: look at it again.
      let merged = leaf.next(leaf.commit.alternate) != next
      var nextFirst: SearchKey?
      if !passedUpper, !merged, next != 0 { nextFirst = firstKey(after: next) }
      if let nextFirst { continuation.set(nextFirst) }
      let isDone = passedUpper || (!merged && nextFirst == nil)
      unlock(position.leaf, position.version)
      for entry in gone {
        if let record = recordOffset(entry.head, entry.word) { retire(.record(record)) }
      }
      if isDone {
        // What was not there must not come back either.
        try awaitDurable(position.leaf)
        try region.acknowledge()
        return removed
      }
      kept.release()
      kept = continuation
      if let key = kept.key { lower = .before(key) }
    }
  }

  /// The least key in the chain from leaf `node` on, whose left neighbour is locked.
  private func firstKey(after node: UInt32) -> SearchKey? {
    var node = node
    while node != 0 {
      let lock = space.lockWord(node)
      let version = waitUnlocked(lock)
      let leaf = leaf(node)
      let commit = leaf.commit
      let first = sortedEntries(leaf, commit.live).first?.entry
      let next = leaf.next(commit.alternate)
      nvm_acquire_fence()
      guard nvm_load_relaxed(lock) == version else { continue }
      if let first, let key = key(first.head, first.word) { return key }
      node = next
    }
    return nil
  }

  private func lockFirstLeaf(from lower: Bound) -> Position {
    while true {
      let position: Position
      switch lower {
      case .start: position = descend(SearchKey(head: 0))
      case .end: position = descendToLast()
      case .before(let key), .after(let key): position = descend(key)
      }
      if tryLock(position) { return position }
      nvm_pause()
    }
  }

  @inline(__always) func isAtOrAbove(_ key: SearchKey, _ bound: Bound) -> Bool {
    switch bound {
    case .start: true
    case .end: false
    case .before(let limit): key.compare(limit) >= 0
    case .after(let limit): key.compare(limit) > 0
    }
  }
  @inline(__always) func isBelow(_ key: SearchKey, _ bound: Bound) -> Bool {
    !isAtOrAbove(key, bound)
  }
}

/// A key whose bytes are its own.
struct KeyCopy {
  private(set) var key: SearchKey?
  private var storage: UnsafeMutableRawPointer?

  @discardableResult
  mutating func set(_ other: SearchKey) -> SearchKey {
    let old = storage
    storage = nil
    if let bytes = other.bytes {
      let copy = UnsafeMutableRawPointer.allocate(byteCount: max(other.count, 1), alignment: 1)
      copy.copyMemory(from: bytes, byteCount: other.count)
      storage = copy
      key = SearchKey(head: other.head, bytes: copy, count: other.count)
    } else {
      key = other
    }
    old?.deallocate()
    return key!
  }
  mutating func release() {
    storage?.deallocate()
    storage = nil
    key = nil
  }
}
