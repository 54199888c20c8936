import CNVM
public import NVMRegion

/// Walks a range of a tree leaf by leaf while writers go on: the engine under ranges and cursors.
///
/// Each step takes a consistent picture of one leaf (validated by its version) and sorts it. Forward, the next
/// leaf is the one linked, provided that the leaf left behind did not change since; else, and always backward, the
/// walk descends anew to where it stopped. So each entry that stays throughout is seen exactly once, in order.
///
/// Not thread-safe: one cursor belongs to one task at a time.
@usableFromInline final class TreeCursor {
  let engine: TreeEngine
  private let isReverse: Bool
  // One task at a time: the runtime's exclusivity checks would cost more than the walk.
  /// The far end of the range.
  @exclusivity(unchecked) private var limit: OwnedBound
  /// Where the walk goes on.
  @exclusivity(unchecked) private var resume: OwnedBound
  @exclusivity(unchecked) private var isFinished = false
  /// Of the gate, for the leaf being read.
  @exclusivity(unchecked) private var ticket: UInt64 = 0
  /// The leaf whose entries were just copied.
  @exclusivity(unchecked) private var taken: UInt32?
  /// Forward: the leaf that was left behind, if its link may be followed.
  @exclusivity(unchecked) private var link: (leaf: UInt32, version: UInt64, next: UInt32)?

  /// The current leaf's entries in the range, in the order of the walk: pairs of head and word.
  @usableFromInline let entries: UnsafeMutablePointer<UInt64>
  private var heads: UnsafeMutablePointer<UInt64> { entries + 2 * Int(NVM_RANK_MAX) }
  private var words: UnsafeMutablePointer<UInt64> { entries + 3 * Int(NVM_RANK_MAX) }
  private var ranks: UnsafeMutablePointer<UInt8> {
    UnsafeMutableRawPointer(entries + 4 * Int(NVM_RANK_MAX)).assumingMemoryBound(to: UInt8.self)
  }
  @exclusivity(unchecked) @usableFromInline var count = 0
  @exclusivity(unchecked) @usableFromInline var index = 0

  @usableFromInline
  init(_ engine: TreeEngine, from lower: Bound, to upper: Bound, reverse: Bool) {
    self.engine = engine
    isReverse = reverse
    limit = OwnedBound(reverse ? lower : upper)
    resume = OwnedBound(reverse ? upper : lower)
    // One allocation: the sorted pairs, then what a sort works on.
    entries = .allocate(capacity: 4 * Int(NVM_RANK_MAX) + 4)
  }

  deinit {
    limit.release()
    resume.release()
    entries.deallocate()
  }

  /// Loads the next leaf that has entries in the range and hands it to `decode` while its records are held.
  /// - Returns: false at the end of the range.
  @usableFromInline
  func load(_ decode: (TreeCursor) throws(NVMError) -> Void = { (_) throws(NVMError) in }) throws(NVMError)
    -> Bool
  {
    index = 0
    count = 0
    try engine.region.checkUsable()
    guard engine.isReadable else { throw engine.sealedError() }
    engine.space.epochs.pin()
    defer { engine.space.epochs.unpin() }
    while !isFinished {
      ticket = try engine.gate.ticket()
      if isReverse { loadBackward() } else { loadForward() }
      if let leaf = taken {
        taken = nil
        try engine.awaitDurable(leaf)
      }
      if count > 0 {
        try decode(self)
        return true
      }
    }
    // A damaged chain ends early, and that is not silent.
    if engine.isSealed { throw engine.sealedError() }
    return false
  }

  // MARK: Forward

  private func loadForward() {
    if let link {
      guard link.next != 0 else {
        // The end of the chain, if it still is.
        nvm_acquire_fence()
        if nvm_load_relaxed(engine.space.lockWord(link.leaf)) == link.version {
          isFinished = true
        } else {
          self.link = nil
        }
        return
      }
      let lock = engine.space.lockWord(link.next)
      let version = engine.waitUnlocked(lock)
      // The link must have held when the neighbour's version was read.
      guard nvm_load_relaxed(engine.space.lockWord(link.leaf)) == link.version else {
        self.link = nil
        return
      }
      let position = Position(leaf: link.next, version: version, parent: lock, parentVersion: version)
      if !take(position) { self.link = nil }
      return
    }
    let position: Position
    switch resume.bound {
    case .start: position = engine.descend(SearchKey(head: 0))
    case .before(let key), .after(let key): position = engine.descend(key)
    case .end:
      isFinished = true
      return
    }
    _ = take(position)
  }

  /// Reads one leaf; false when it changed meanwhile.
  private func take(_ position: Position) -> Bool {
    let leaf = engine.leaf(position.leaf)
    let commit = leaf.commit
    let next = leaf.next(commit.alternate)
    if engine.isInside(next) {
      // The walk will want all of it.
      let base = engine.leaf(next).base
      for line in 0..<8 { nvm_prefetch(base + line &* 64) }
    }
    guard copy(leaf, commit.live, position) else { return false }
    link = (position.leaf, position.version, next)
    // Keep what lies in the range.
    var start = 0
    while start < count, !engine.isAtOrAbove(key(start), resume.bound) { start += 1 }
    var end = count
    if end > start, !engine.isBelow(key(end - 1), limit.bound) {
      isFinished = true
      while end > start, !engine.isBelow(key(end - 1), limit.bound) { end -= 1 }
    }
    if end > start { resume.set(.after(key(end - 1))) }
    keep(start, end)
    return true
  }

  // MARK: Backward

  private func loadBackward() {
    var fence: SearchKey?
    let position: Position
    switch resume.bound {
    case .end: position = engine.descend(fence: &fence) { $0.count }
    case .before(let key): position = engine.descend(fence: &fence) { $0.childIndex(before: key) }
    case .after(let key): position = engine.descend(fence: &fence) { $0.childIndex(for: key) }
    case .start:
      isFinished = true
      return
    }
    let leaf = engine.leaf(position.leaf)
    guard copy(leaf, leaf.commit.live, position) else { return }
    var end = count
    while end > 0, !engine.isBelow(key(end - 1), resume.bound) { end -= 1 }
    var start = 0
    while start < end, !engine.isAtOrAbove(key(start), limit.bound) { start += 1 }
    if start > 0 { isFinished = true }
    if let fence { resume.set(.before(fence)) } else { isFinished = true }
    keep(start, end)
    // The order of the walk.
    var i = 0
    var j = count - 1
    while i < j {
      (entries[2 * i], entries[2 * j]) = (entries[2 * j], entries[2 * i])
      (entries[2 * i + 1], entries[2 * j + 1]) = (entries[2 * j + 1], entries[2 * i + 1])
      i += 1
      j -= 1
    }
  }

  // MARK: One leaf

  @inline(__always) private func key(_ i: Int) -> SearchKey {
    engine.key(entries[2 * i], entries[2 * i + 1]) ?? SearchKey(head: entries[2 * i])
  }

  private func keep(_ start: Int, _ end: Int) {
    if start > 0 { entries.update(from: entries + 2 * start, count: 2 * (end - start)) }
    count = max(0, end - start)
  }

  /// Copies the live slots and sorts them; false (and nothing copied) when the leaf changed meanwhile.
  private func copy(_ leaf: Leaf, _ live: UInt64, _ position: Position) -> Bool {
    let n = live.nonzeroBitCount
    var rest = live
    var k = 0
    while k < n {
      let i = rest.trailingZeroBitCount
      rest &= rest &- 1
      heads[k] = leaf.head(i)
      words[k] = leaf.word(i)
      k &+= 1
    }
    count = 0
    guard engine.isUnchanged(position) else { return false }
    taken = position.leaf
    count = n
    nvm_rank(heads, Int32(truncatingIfNeeded: n), ranks)
    k = 0
    while k < n {
      let place = Int(ranks[k]) &* 2
      entries[place] = heads[k]
      entries[place &+ 1] = words[k]
      k &+= 1
    }
    if engine.keysAreBytes { sortTies(n) }
    return true
  }

  /// Brings entries whose heads tie into the order of their whole keys.
  private func sortTies(_ n: Int) {
    for i in 1..<max(n, 1) {
      var j = i
      while j > 0, entries[2 * j] == entries[2 * j - 2], isAfter(j - 1, j) {
        (entries[2 * j + 1], entries[2 * j - 1]) = (entries[2 * j - 1], entries[2 * j + 1])
        j -= 1
      }
    }
  }

  /// Whether entry `i` sorts behind entry `j`; their heads tie.
  private func isAfter(_ i: Int, _ j: Int) -> Bool {
    let head = entries[2 * i]
    guard engine.isLong(head), let a = engine.longKey(head, entries[2 * i + 1]),
      let b = engine.longKey(head, entries[2 * j + 1])
    else { return false }
    return a.compare(b) > 0
  }
}

/// A bound whose key bytes are its own.
struct OwnedBound {
  private var key = KeyCopy()
  private(set) var bound: Bound

  init(_ bound: Bound) {
    self.bound = .start
    set(bound)
  }
  mutating func set(_ new: Bound) {
    switch new {
    case .start, .end: bound = new
    case .before(let other):
      key.set(other)
      bound = .before(key.key!)
    case .after(let other):
      key.set(other)
      bound = .after(key.key!)
    }
  }
  mutating func release() { key.release() }
}

extension TreeEngine {
  /// A descent that also finds the separator below which the leaf's left neighbours lie. Epoch pinned.
  func descend(fence: inout SearchKey?, _ choose: (InnerNode) -> Int) -> Position {
    while true {
      var found: SearchKey?
      let position = tryDescend { inner in
        let index = choose(inner)
        if index > 0 { found = inner.separator(index - 1) }
        return index
      }
      if let position {
        fence = found
        return position
      }
      nvm_pause()
    }
  }
}
