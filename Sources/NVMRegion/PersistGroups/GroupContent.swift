import CNVM

/// What one counter counts: the lines that threads have changed and not fenced, and the counters that must be settled
/// first. On a journal, which has one order, a position in it says all that.
///
/// Locks: one content at a time; none is held while another is asked, nor during a fence.
final class GroupContent: Sendable {
  /// Lines `first ..< end`, of 64 bytes each.
  struct Lines: Equatable {
    var first: UInt64
    var end: UInt64
  }
  /// What one thread has changed since its last fence.
  struct Writer {
    var slot: Int32
    /// Fences that the thread had completed at its last change: one more settles all of it.
    var fences: UInt64
    var lines: [Lines] = []
  }
  struct State {
    var writers: [Writer] = []
    /// Counters that shared a line before.
    var earlier: [GroupContent] = []
    /// How long a chain of counters ends here.
    var depth = 0
    /// On a journal: all changes lie before it.
    var position: UInt64 = 0
    /// Counts what is added, so that who has settled a state knows it again.
    var changes: UInt64 = 0
  }
  let state = Lock(State())
  /// Whether it stands for the groups beyond the limit.
  let isShared: Bool

  static let mostRanges = 16_384
  static let mostDepth = 64

  init(isShared: Bool) { self.isShared = isShared }

  /// Notes a change that the calling thread has just appended to the journal.
  func note(position: UInt64) {
    state.withLock { state in
      state.changes += 1
      state.position = max(state.position, position)
    }
  }

  /// Notes a change by the calling thread. Returns whether there is so much that it is to be settled now.
  func note(_ lines: Lines, after earlier: [GroupContent], _ region: PersistentRegion) -> Bool {
    // Each content's lock alone.
    let depth = (earlier.map { $0.state.withLock { $0.depth } }.max() ?? -1) + 1
    let slot = nvm_thread_slot()
    let fences = region.completedFences(slot)
    return state.withLock { state in
      state.changes += 1
      for content in earlier where !state.earlier.contains(where: { $0 === content }) {
        state.earlier.append(content)
      }
      if !earlier.isEmpty { state.depth = max(state.depth, depth) }
      state.dropSettled(region)
      let i = state.writers.firstIndex { $0.slot == slot } ?? state.writers.count
      if i == state.writers.count { state.writers.append(Writer(slot: slot, fences: fences)) }
      state.writers[i].fences = fences
      state.writers[i].add(lines)
      return state.writers[i].lines.count > Self.mostRanges || state.depth > Self.mostDepth
    }
  }

  /// Whether this and all that comes before it is settled; false where somebody has a lock.
  func isSettled(_ region: PersistentRegion) -> Bool {
    var seen: [(content: GroupContent, changes: UInt64)] = []
    var open = [self]
    while let content = open.popLast() {
      if seen.contains(where: { $0.content === content }) { continue }
      let found = content.state.withLockIfAvailable { state -> (UInt64, [GroupContent])? in
        state.dropSettled(region)
        return state.writers.isEmpty && region.isDurable(state.position)
          ? (state.changes, state.earlier) : nil
      }
      guard let found, let (changes, earlier) = found else { return false }
      seen.append((content, changes))
      open += earlier
    }
    // All were settled at one moment or other since the question: those that have not changed owe nothing any more.
    for (content, changes) in seen {
      _ = content.state.withLockIfAvailable { state in
        if state.changes == changes { (state.earlier, state.depth) = ([], 0) }
      }
    }
    return true
  }

  func outstandingLines(_ region: PersistentRegion) -> Int {
    state.withLock { state in
      state.dropSettled(region)
      return state.writers.reduce(0) { $0 + $1.lines.reduce(0) { $0 + Int($1.end - $1.first) } }
    }
  }
}

extension GroupContent.State {
  /// Forgets what its threads have fenced since.
  mutating func dropSettled(_ region: PersistentRegion) {
    if writers.isEmpty { return }
    writers.removeAll { region.hasSettled($0) }
  }
}

extension GroupContent.Writer {
  fileprivate mutating func add(_ new: GroupContent.Lines) {
    // Work goes on in the same line, or in the next.
    if let last = lines.last, last.first <= new.first, new.first <= last.end {
      lines[lines.count - 1].end = max(last.end, new.end)
    } else {
      lines.append(new)
    }
  }
}

extension PersistentRegion {
  /// Fences that a thread slot has completed since the region was opened.
  func completedFences(_ slot: Int32) -> UInt64 { counterTable.completed(slot: slot) }

  func isDurable(_ position: UInt64) -> Bool { position == 0 || journal?.isDurable(position) ?? true }

  /// (A thread that ends with lines unfenced leaves its slot by an atomic instruction, which orders its write-backs as a
  /// fence does.) Nobody knows which of the threads that share slot 0 has fenced.
  func hasSettled(_ writer: GroupContent.Writer) -> Bool {
    writer.slot != 0 && completedFences(writer.slot) > writer.fences
  }

  /// Makes durable what these counters count, and those before them, as of now: writes back what other threads have
  /// changed and not fenced, and fences once.
  func settleGroups(_ contents: [GroupContent]) throws(NVMError) {
    if journal != nil {
      return try awaitDurable(contents.reduce(0) { max($0, $1.state.withLock { $0.position }) })
    }
    let slot = nvm_thread_slot()
    var seen: [ObjectIdentifier: (content: GroupContent, changes: UInt64)] = [:]
    var open = contents
    while let content = open.popLast() {
      if seen[ObjectIdentifier(content)] != nil { continue }
      let (changes, earlier, lines) = content.state.withLock { state in
        state.dropSettled(self)
        // What this thread has changed it has written back itself, and its fence is to come.
        let foreign = state.writers.filter { $0.slot != slot || slot == 0 }
        return (state.changes, state.earlier, foreign.flatMap(\.lines))
      }
      seen[ObjectIdentifier(content)] = (content, changes)
      for range in lines {
        flush(Offset(rawValue: range.first << 6), count: Int(range.end - range.first) << 6)
      }
      open += earlier
    }
    try fence()
    for (content, changes) in seen.values {
      content.state.withLock { state in
        if state.changes == changes { state = GroupContent.State(changes: changes) }
      }
    }
  }
}
