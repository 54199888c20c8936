import CNVM

/// What one counter counts: its lines stand in ``GroupRecords``; here are the counters that must be settled first. On a
/// journal, which has one order, a position in it says all that.
///
/// Locks: one content at a time; none is held while another is asked, nor during a fence.
final class GroupContent: Sendable {
  struct State {
    /// Counters that shared a line before.
    var earlier: [GroupContent] = []
    /// How long a chain of counters ends here.
    var depth = 0
    /// Counts what is added to `earlier`, so that who has settled a state knows it again.
    var changes: UInt64 = 0
  }
  let state = Lock(State())
  let id: UInt64
  /// Whether it stands for the groups beyond the limit.
  var isShared: Bool { id == 0 }

  static let mostChanges = UInt64(NVM_GROUP_MOST_CHANGES)
  static let mostDepth = 64

  init(id: Int) { self.id = UInt64(id) }

  /// Notes that others changed a line before. Returns whether the chain has become so long that it is to be settled.
  func add(_ earlier: GroupContent, _ records: GroupRecords) -> Bool {
    // Each content's lock alone.
    let depth = earlier.state.withLock { $0.depth } + 1
    return state.withLock { state in
      if !state.earlier.contains(where: { $0 === earlier }) { state.earlier.append(earlier) }
      state.changes += 1
      state.depth = max(state.depth, depth)
      nvm_store_release(records.hasEarlier(id), 1)
      return state.depth > Self.mostDepth
    }
  }

  /// Forgets the counters before it, all of which were settled, unless others have come meanwhile.
  func forget(_ changes: UInt64, _ records: GroupRecords) {
    state.withLock { state in
      guard state.changes == changes else { return }
      (state.earlier, state.depth) = ([], 0)
      nvm_store_release(records.hasEarlier(id), 0)
    }
  }
}

extension PersistentRegion {
  /// Fences that a thread slot has completed since the region was opened.
  func completedFences(_ slot: Int) -> UInt64 { counterTable.completed(slot: Int32(slot)) }

  private func isDurable(_ position: UInt64) -> Bool {
    position == 0 || journal?.isDurable(position) ?? true
  }

  // MARK: Questions

  /// Whether this counter and all that come before it are settled; false where somebody has a lock.
  func isSettled(_ content: GroupContent) -> Bool {
    let records = groups.records
    if journal != nil { return isDurable(nvm_load_acquire(records.position(content.id))) }
    guard isSettledAlone(content.id) else { return false }
    if nvm_load_acquire(records.hasEarlier(content.id)) == 0 { return true }
    var seen: [(content: GroupContent, changes: UInt64)] = []
    var open = [content]
    while let content = open.popLast() {
      if seen.contains(where: { $0.content === content }) { continue }
      guard isSettledAlone(content.id),
        let (changes, earlier) = content.state.withLockIfAvailable({ ($0.changes, $0.earlier) })
      else { return false }
      seen.append((content, changes))
      open += earlier
    }
    // All were settled at one moment or other since the question: those that have not changed owe nothing any more.
    for (content, changes) in seen { content.forget(changes, records) }
    return true
  }

  /// Whether all changes under a counter are settled. O(threads that change something under groups).
  func isSettledAlone(_ id: UInt64) -> Bool {
    let records = groups.records
    var slot = records.highest
    while slot > 0 {
      if let area = records.area(slot), !isSettled(area, slot, of: id) { return false }
      slot &-= 1
    }
    return true
  }

  /// Whether the changes of a slot under a counter are settled.
  @inline(__always) private func isSettled(_ area: GroupArea, _ slot: Int, of id: UInt64) -> Bool {
    let tick = area.tick(id)
    return tick == 0 || tick <= nvm_load_acquire(area.cleared(id)) || isSettled(area, slot, tick)
  }

  /// (A thread that ends with lines unfenced leaves its slot by an atomic instruction, which orders its write-backs as a
  /// fence does.)
  @inline(__always) func isSettled(_ area: GroupArea, _ slot: Int, _ tick: UInt64) -> Bool {
    if tick <= nvm_load_acquire(area.settled) || tick <= nvm_load_acquire(area.cleared) { return true }
    let pending = nvm_load_acquire(area.pending)
    guard pending == 0 || tick < pending else { return false }
    let fences = nvm_load_acquire(area.fences)
    // Where the thread has begun to write back anew since, it has noted before how far its fences had come.
    return completedFences(slot) > fences || tick <= nvm_load_acquire(area.settled)
  }

  func outstandingLines(_ content: GroupContent) -> Int {
    let records = groups.records
    var total = 0
    for slot in stride(from: records.highest, to: 0, by: -1) {
      guard let area = records.area(slot) else { continue }
      forEachOutstanding(area, slot, id: content.id) { total += Int($0.count) }
    }
    return total
  }

  // MARK: Settling

  /// The entries of an area that are not settled, of one counter or of all. Of what is changed meanwhile, some.
  private func forEachOutstanding(
    _ area: GroupArea, _ slot: Int, id: UInt64?, _ body: ((first: UInt64, count: UInt64)) -> Void
  ) {
    let pending = nvm_load_acquire(area.pending)
    let flushed = pending == 0 ? area.tick : pending - 1
    let settled = isSettled(area, slot, flushed) ? flushed : 0
    let own = id.map { nvm_load_acquire(area.cleared($0)) } ?? 0
    let cleared = max(nvm_load_acquire(area.cleared), own, settled)
    let end = nvm_load_acquire(area.end)
    // As far back as entries may be: all before was settled.
    var index = max(
      nvm_load_acquire(area.settled), cleared, end > GroupArea.capacity ? end - GroupArea.capacity : 0)
    while index < end {
      let word = nvm_load_acquire(area.entry(index))
      index &+= 1
      if let id, GroupArea.id(word) != id { continue }
      let lines = GroupArea.lines(word)
      if lines.count == 0 || (lines.first &+ lines.count) &<< 6 > UInt64(size) { continue }
      if index < end {
        // The next change may have been of the same lines.
        let next = nvm_load_acquire(area.entry(index))
        let (first, count) = GroupArea.lines(next)
        if GroupArea.id(next) == GroupArea.id(word), first <= lines.first,
          lines.first &+ lines.count <= first &+ count
        {
          continue
        }
      }
      body(lines)
    }
  }

  private func flush(_ lines: (first: UInt64, count: UInt64)) {
    flush(Offset(rawValue: lines.first &<< 6), count: Int(lines.count) << 6)
  }

  /// Starts the write-back of what this thread has put off, without waiting.
  func flushPending(_ area: GroupArea, _ slot: Int) {
    let records = groups.records
    let pending = nvm_load_relaxed(area.pending)
    guard pending != 0 else { return }
    let end = nvm_load_relaxed(area.end)
    var index = pending &- 1
    records.advance(area, completed: completedFences(slot))
    while index != end {
      flush(GroupArea.lines(nvm_load_relaxed(area.entry(index))))
      index &+= 1
    }
    nvm_store_release(area.pending, 0)
  }

  /// What the calling thread has put off. Never waits.
  func flushPending() {
    let slot = Int(nvm_thread_slot())
    if slot != 0, let area = groups.records.area(slot) { flushPending(area, slot) }
  }

  /// Makes durable what one counter counts, and those before it, as of now.
  func settleGroup(_ content: GroupContent) throws(NVMError) {
    guard isOwnAlone(content) else {
      return isSettled(content) ? try checkUsable() : try settleGroups([content])
    }
    // Mostly it is this thread alone that has changed something: a fence, and nothing to note.
    let own = Int(nvm_thread_slot())
    guard let area = groups.records.area(own) else { return try checkUsable() }
    flushPending(area, own)
    if isSettled(area, own, of: content.id) { return try checkUsable() }
    try fence()
  }

  /// Whether a fence of the calling thread would settle the counter. False where that is not known.
  private func isOwnAlone(_ content: GroupContent) -> Bool {
    let records = groups.records
    guard journal == nil, nvm_load_acquire(records.hasEarlier(content.id)) == 0 else { return false }
    let own = Int(nvm_thread_slot())
    var slot = records.highest
    while slot > 0 {
      if slot != own, let area = records.area(slot), !isSettled(area, slot, of: content.id) { return false }
      slot &-= 1
    }
    return true
  }

  /// Whether settling the counter takes so little time that a task may do it itself: a fence on cache lines, and
  /// the write-back of few lines that other threads have changed.
  func isQuicklySettled(_ content: GroupContent) -> Bool {
    switch media {
    case .persistentMemory, .autoFlushedPersistentMemory, .emulated:
      return isOwnAlone(content) || outstandingLines(content) <= Self.mostQuickLines
    case .inPlaceFile, .journaledFile, .simulated: return false
    }
  }
  private static var mostQuickLines: Int { 256 }

  /// Makes durable what these counters count, and those before them, as of now: writes back what other threads have
  /// changed and not fenced, and fences once.
  func settleGroups(_ contents: [GroupContent]) throws(NVMError) {
    let records = groups.records
    if journal != nil {
      return try awaitDurable(contents.reduce(0) { max($0, nvm_load_acquire(records.position($1.id))) })
    }
    let own = Int(nvm_thread_slot())
    flushPending()
    var seen: [ObjectIdentifier: (content: GroupContent, changes: UInt64)] = [:]
    var cleared: [(word: UnsafeMutableRawPointer, tick: UInt64)] = []
    var open = contents
    while let content = open.popLast() {
      if seen[ObjectIdentifier(content)] != nil { continue }
      let (changes, earlier) = content.state.withLock { ($0.changes, $0.earlier) }
      seen[ObjectIdentifier(content)] = (content, changes)
      for slot in stride(from: records.highest, to: 0, by: -1) where slot != own {
        guard let area = records.area(slot) else { continue }
        let tick = area.tick(content.id)
        if isSettled(area, slot, of: content.id) { continue }
        forEachOutstanding(area, slot, id: content.id) { flush($0) }
        cleared.append((area.cleared(content.id), tick))
      }
      open += earlier
    }
    try fence()
    for (word, tick) in cleared { Self.raise(word, to: tick) }
    for (content, changes) in seen.values { content.forget(changes, records) }
  }

  /// Makes durable all that a slot's thread has changed under groups as of now. One fence.
  func settleThread(_ slot: Int) throws(NVMError) {
    guard let area = groups.records.area(slot) else { return }
    if slot == Int(nvm_thread_slot()) {
      flushPending(area, slot)
      return try fence()
    }
    let tick = area.tick
    forEachOutstanding(area, slot, id: nil) { flush($0) }
    try fence()
    Self.raise(area.cleared, to: tick)
  }

  /// Starts the write-back of all that any thread has changed under groups and not fenced; the caller's next fence
  /// makes it durable. Returns what to raise, and to which value, when it has fenced.
  func flushAllGroups() -> [(word: UnsafeMutableRawPointer, tick: UInt64)] {
    guard journal == nil else { return [] }
    flushPending()
    let own = Int(nvm_thread_slot())
    var cleared: [(word: UnsafeMutableRawPointer, tick: UInt64)] = []
    for slot in stride(from: groups.records.highest, to: 0, by: -1) where slot != own {
      guard let area = groups.records.area(slot) else { continue }
      let tick = area.tick
      forEachOutstanding(area, slot, id: nil) { flush($0) }
      cleared.append((area.cleared, tick))
    }
    return cleared
  }

  /// Makes durable all that any thread has changed under groups as of now. One fence.
  package func settleAllGroups() throws(NVMError) {
    let cleared = flushAllGroups()
    try fence()
    for (word, tick) in cleared { Self.raise(word, to: tick) }
  }

  static func raise(_ word: UnsafeMutableRawPointer, to value: UInt64) {
    while true {
      let old = nvm_load_acquire(word)
      if old >= value || nvm_compare_exchange(word, old, value) { return }
    }
  }
}
