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
  @exclusivity(unchecked) private var isDamaged = false
  /// A damaged record on which the order of its entries depends.
  @exclusivity(unchecked) private var damagedRecord: Offset?
  /// Is told of what is damaged, and the walk goes on behind it; without it the walk ends by throwing that.
  @exclusivity(unchecked) var onDamage: ((NVMError) -> Void)?
  /// The damaged leaf that was told of last.
  @exclusivity(unchecked) private var passedOver: UInt32?
  /// Forward: the leaf that was left behind, if its link may be followed.
  @exclusivity(unchecked) private var link: (leaf: UInt32, version: UInt64, next: UInt32)?
  /// Forward: the inner node above the current leaf and the leaf's index in it. A hint, for fetching ahead.
  @exclusivity(unchecked) private var above: (inner: InnerNode, index: Int)?
  /// Forward: how many leaves behind the current one are on their way to the cache, and how many links were followed.
  @exclusivity(unchecked) private var ahead = 0
  @exclusivity(unchecked) private var passed = 0
  /// How many were followed since one led to entries of the range.
  @exclusivity(unchecked) private var barren = 0
  /// The last of those, not asked for yet: that is done while the current leaf is sorted.
  @exclusivity(unchecked) private var coming: UInt32?
  /// Who made it wants one entry.
  private let isShort: Bool

  /// The current leaf's entries in the range, in the order of the walk: pairs of head and word.
  @usableFromInline let entries: UnsafeMutablePointer<UInt64>
  @exclusivity(unchecked) @usableFromInline var count = 0

  /// Where the heads of leaves differ (nvm_slots.h), and what the engine was told of it.
  @exclusivity(unchecked) private var window: UInt32
  @exclusivity(unchecked) private var toldWindow: UInt32

  // The engine is borrowed: each reference counted is a locked instruction, and a short walk has little else to do.
  @usableFromInline
  init(
    _ engine: borrowing TreeEngine, from lower: Bound, to upper: Bound, reverse: Bool, isShort: Bool = false
  ) {
    window = UInt32(truncatingIfNeeded: nvm_load_relaxed(engine.windowWord))
    toldWindow = window
    self.engine = copy engine
    self.isShort = isShort
    isReverse = reverse
    limit = OwnedBound(reverse ? lower : upper)
    resume = OwnedBound(reverse ? upper : lower)
    entries = .allocate(capacity: 2 * Int(NVM_SLOTS_MAX) + 2)
  }

  /// Two words for the key and the value of an entry that has no record.
  private var scratch: UnsafeMutablePointer<UInt64> { entries + 2 * Int(NVM_SLOTS_MAX) }

  /// Where key and value of entry `i` lie, until the next call or ``unpin()``: a key that is a word as eight bytes,
  /// highest first, so that bytes sort as keys do; a value that is a word lowest first. The epoch must be pinned.
  @usableFromInline
  func bytes(ofEntry i: Int) throws(NVMError) -> EntryBytes {
    let head = entries[2 &* i]
    let word = entries[2 &* i &+ 1]
    var record: Record?
    if let offset = engine.recordOffset(head, word) { record = try engine.checkedRecord(at: offset) }
    scratch[0] = head.bigEndian
    var found = EntryBytes(
      key: UnsafeRawPointer(scratch), keyCount: engine.keysAreBytes ? KeyHead.length(head) : 8,
      value: UnsafeRawPointer(scratch + 1), valueCount: 8)
    if let record, engine.isLong(head) { (found.key, found.keyCount) = (record.key, record.keyLength) }
    if let record {
      (found.value, found.valueCount) = (record.key + record.keyLength, record.valueLength)
    } else {
      scratch[1] = engine.valuesAreBytes ? SlotValue.bytes(word) : word.littleEndian
      if engine.valuesAreBytes { found.valueCount = SlotValue.length(word) }
    }
    return found
  }

  deinit {
    limit.release()
    resume.release()
    entries.deallocate()
  }

  /// Loads the next leaf that has entries in the range and hands it to `decode` while its records are held.
  /// - Returns: false at the end of the range.
  @usableFromInline
  func load(_ decode: (TreeCursor) throws(NVMError) -> Void) throws(NVMError) -> Bool {
    engine.space.epochs.pin()
    defer { engine.space.epochs.unpin() }
    guard try advance() else { return false }
    try decode(self)
    return true
  }

  /// Loads the next leaf that has entries in the range; its records are held until ``unpin()``.
  /// - Returns: false at the end of the range, and nothing is held.
  @usableFromInline
  func loadPinned() throws(NVMError) -> Bool {
    engine.space.epochs.pin()
    do throws(NVMError) {
      if try advance() { return true }
    } catch {
      engine.space.epochs.unpin()
      throw error
    }
    engine.space.epochs.unpin()
    return false
  }
  @usableFromInline func unpin() { engine.space.epochs.unpin() }

  /// Loads the next leaf that has entries in the range, of a tree that has neither records nor long keys.
  /// - Returns: false at the end of the range.
  @usableFromInline
  func load() throws(NVMError) -> Bool {
    assert(!engine.keysAreBytes && !engine.valuesAreBytes)
    return try advance()
  }

  @inline(__always)
  private func advance() throws(NVMError) -> Bool {
    count = 0
    try engine.checkReadable()
    while !isFinished {
      ticket = try engine.gate.ticket()
      if isReverse { loadBackward() } else { loadForward() }
      if let leaf = taken {
        taken = nil
        if let damagedRecord {
          isFinished = true
          throw engine.corruptRecordError(damagedRecord)
        }
        if isDamaged {
          count = 0
          guard let onDamage else {
            isFinished = true
            throw engine.corruptLeafError(engine.leaf(leaf))
          }
          if passedOver != leaf { onDamage(engine.corruptLeafError(engine.leaf(leaf))) }
          passedOver = leaf
          isDamaged = false
          if !isReverse { passOver() }
          continue
        }
        try engine.awaitDurable(leaf)
      }
      if count > 0 { return true }
    }
    // A damaged chain ends early, and that is not silent.
    if engine.isSealed { throw engine.sealedError() }
    return false
  }

  // MARK: Forward

  private func loadForward() {
    if let link {
      // Behind it is what the tree was sealed for.
      if link.leaf == engine.chainEnd {
        isFinished = true
        return
      }
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
      // Rot since the tree was opened: a link to nowhere, or in a circle.
      guard engine.isInside(link.next), barren <= engine.region.size >> Int(LeafLayout.shift) else {
        (taken, isDamaged) = (link.leaf, true)
        return
      }
      let lock = engine.space.lockWord(link.next)
      let version = engine.waitUnlocked(lock)
      // The link must have held when the neighbour's version was read.
      guard nvm_load_relaxed(engine.space.lockWord(link.leaf)) == link.version else {
        self.link = nil
        return
      }
      let position = Position(leaf: link.next, version: version)
      follow(link.next)
      if !take(position) { self.link = nil }
      return
    }
    let position: Position
    switch resume.bound {
    case .start: position = descendNoting(SearchKey(head: 0))
    case .before(let key), .after(let key): position = descendNoting(key)
    case .end:
      isFinished = true
      return
    }
    _ = take(position)
  }

  /// How many leaves to fetch ahead of the current one. The chain names one, the inner node some more: their misses
  /// overlap with the work on this one. A walk begins with one, for it may be short and what it does not come to was
  /// fetched in vain; a long one keeps the memory busy.
  @inline(__always) private var distance: Int { isShort ? 0 : min(1 &+ passed &>> 1, 4) }

  private func descendNoting(_ key: SearchKey) -> Position {
    var found: (inner: InnerNode, index: Int)?
    let position = engine.descend { inner in
      let index = inner.childIndex(for: key)
      found = (inner, index)
      return index
    }
    above = found
    ahead = 0
    if let found { fetchAhead(found.inner, found.index) }
    return position
  }

  @inline(__always) private func fetchAhead(_ inner: InnerNode, _ index: Int) {
    let distance = distance
    while ahead < distance {
      ahead &+= 1
      fetch(inner, index &+ ahead)
    }
  }

  /// Moves the hint on to the next leaf; drops it where that is not the next child, as behind an inner node's last one.
  @inline(__always) private func follow(_ leaf: UInt32) {
    passed &+= 1
    barren &+= 1
    guard let (inner, index) = above else { return }
    if index < inner.count, inner.child(index &+ 1) == leaf {
      above = (inner, index &+ 1)
      ahead &-= 1
      fetchAhead(inner, index &+ 1)
    } else {
      above = nil
    }
  }

  @inline(__always) private func fetch(_ inner: InnerNode, _ index: Int) {
    if index >= 0, index <= inner.count { fetchLeaf(inner.child(index)) }
  }
  /// Prefetching reaches for any address without harm.
  @inline(__always) private func fetchLeaf(_ leaf: UInt32) {
    nvm_prefetch(engine.space.lockWord(leaf))
    if let coming { engine.prefetchLeaf(coming) }
    coming = leaf
  }

  /// Reads one leaf; false when it changed meanwhile.
  private func take(_ position: Position) -> Bool {
    let leaf = engine.leaf(position.leaf)
    let commit = leaf.commit
    let next = leaf.next(commit.alternate)
    // The walk will want all of it.
    if above == nil, !isShort, engine.isInside(next) { fetchLeaf(next) }
    guard copy(leaf, commit.live, position) else { return false }
    // Nothing of it is believed.
    if isDamaged { return true }
    // A dropped hint is found anew by the leaf's own entries.
    if above == nil, count > 0 { _ = descendNoting(key(0)) }
    link = (position.leaf, position.version, next)
    // Keep what lies in the range.
    var start = 0
    while start < count, !isAtOrAbove(start, resume.bound) { start += 1 }
    var end = count
    if end > start, isAtOrAbove(end - 1, limit.bound) {
      isFinished = true
      while end > start, isAtOrAbove(end - 1, limit.bound) { end -= 1 }
    }
    if end > start { resume.set(.after(key(end - 1))) }
    keep(start, end)
    return true
  }

  /// Goes on behind the leaf that a descent leads to: the damaged one, or the one before it. Its own link is not believed.
  private func passOver() {
    link = nil
    isFinished = false
    var fence: SearchKey?
    switch resume.bound {
    case .start: _ = engine.descend(upperFence: &fence, SearchKey(head: 0))
    case .before(let key), .after(let key): _ = engine.descend(upperFence: &fence, key)
    case .end: break
    }
    if let fence { resume.set(.before(fence)) } else { isFinished = true }
  }

  // MARK: Backward

  private func loadBackward() {
    var fence: SearchKey?
    let position: Position
    switch resume.bound {
    case .end: position = descendFetching(&fence) { $0.count }
    case .before(let key): position = descendFetching(&fence) { $0.childIndex(before: key) }
    case .after(let key): position = descendFetching(&fence) { $0.childIndex(for: key) }
    case .start:
      isFinished = true
      return
    }
    let leaf = engine.leaf(position.leaf)
    guard copy(leaf, leaf.commit.live, position) else { return }
    if isDamaged { count = 0 }
    var end = count
    while end > 0, isAtOrAbove(end - 1, resume.bound) { end -= 1 }
    // Of a damaged tree nobody knows what stands between this leaf's last entry and a bound behind it.
    if end == count, engine.isSealed, position.leaf == engine.lastKnownLeaf {
      (count, isFinished) = (0, true)
      return
    }
    var start = 0
    while start < end, !isAtOrAbove(start, limit.bound) { start += 1 }
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

  /// A descent that also finds the separator below which the leaf's left neighbours lie, and fetches two of them.
  private func descendFetching(_ fence: inout SearchKey?, _ choose: (InnerNode) -> Int) -> Position {
    var found: (inner: InnerNode, index: Int)?
    let position = engine.descend(fence: &fence) { inner in
      let index = choose(inner)
      found = (inner, index)
      return index
    }
    if !isShort, let (inner, index) = found {
      fetch(inner, index &- 1)
      fetch(inner, index &- 2)
    }
    return position
  }

  // MARK: One leaf

  @inline(__always) private func key(_ i: Int) -> SearchKey {
    engine.key(entries[2 * i], entries[2 * i + 1]) ?? SearchKey(head: entries[2 * i])
  }

  /// Whether entry `i` lies at or above a bound. By the heads, unless they tie: a long key is another line to wait for.
  @inline(__always) private func isAtOrAbove(_ i: Int, _ bound: Bound) -> Bool {
    switch bound {
    case .before(let limit), .after(let limit):
      let head = entries[2 &* i]
      return head == limit.head ? engine.isAtOrAbove(key(i), bound) : head > limit.head
    case .start: return true
    case .end: return false
    }
  }

  private func keep(_ start: Int, _ end: Int) {
    if start > 0 { entries.update(from: entries + 2 * start, count: 2 * (end - start)) }
    count = max(0, end - start)
    if count > 0 { barren = 0 }
  }

  /// Copies the live slots and sorts them; false (and nothing copied) when the leaf changed meanwhile.
  private func copy(_ leaf: Leaf, _ live: UInt64, _ position: Position) -> Bool {
    // Where nothing is to come, the leaf itself, which is here already.
    let ahead = coming.map { engine.leaf($0).base } ?? leaf.base
    coming = nil
    // Walks too short to find out for themselves try now and then whether what was given up helps after all.
    if window == UInt32(NVM_WINDOW_NONE), leaf.node & 15 == 0 { window = UInt32(NVM_WINDOW_TOP) }
    let n = Int(
      nvm_sort_slots(
        leaf.base + LeafLayout.firstSlot, UInt32(truncatingIfNeeded: live), entries, ahead, &window))
    if window != toldWindow { tellWindow() }
    count = 0
    let isTrusted = engine.isTrusted(leaf)
    // The ticket, too: of a transaction that is going in nobody sees a part.
    guard engine.isUnchanged(position), engine.gate.isCurrent(ticket) else { return false }
    taken = position.leaf
    isDamaged = !isTrusted
    count = n
    if !isShort, engine.keysAreBytes || engine.valuesAreBytes {
      // All of the leaf's records at once: one after the other they would cost a miss or more each.
      for i in 0..<n { engine.prefetchRecord(entries[2 &* i], entries[2 &* i &+ 1]) }
    }
    if engine.keysAreBytes {
      if engine.options.verifiesReads, onDamage == nil { checkTies(n) }
      sortTies(n)
    }
    return true
  }

  /// Where heads tie, with each other or with an end of the range, records decide: one that is damaged makes it unknown
  /// what comes when. (Elsewhere it is found when its entry is read.)
  private func checkTies(_ n: Int) {
    for i in 0..<n {
      let head = entries[2 * i]
      let isTied =
        i > 0 && entries[2 * i - 2] == head || i + 1 < n && entries[2 * i + 2] == head
        || resume.bound.key?.head == head || limit.bound.key?.head == head
      guard isTied, let damaged = engine.damagedRecord(head, entries[2 * i + 1]) else { continue }
      damagedRecord = damaged
      return
    }
  }

  /// Lets the tree's next walks begin with what this one has learned of its keys.
  @inline(never) private func tellWindow() {
    guard window <= UInt32(NVM_WINDOW_TOP) || window == UInt32(NVM_WINDOW_NONE) else { return }
    toldWindow = window
    nvm_store_relaxed(engine.windowWord, UInt64(window))
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

/// Where the bytes of an entry lie.
@frozen @usableFromInline struct EntryBytes {
  @usableFromInline var key: UnsafeRawPointer
  @usableFromInline var keyCount: Int
  @usableFromInline var value: UnsafeRawPointer
  @usableFromInline var valueCount: Int
}
