import CNVM

/// Which counter last changed which line, and how many counters there are.
///
/// Lines share places of a table by a hash: a false conflict makes a group wait for another, never the other way round.
final class GroupRegistry: Sendable {
  static let mostGroups = 4096
  private static let shardCount = 16
  private static let placesPerShard = 256

  private struct Shard {
    var places: [GroupContent?] = []
  }
  private struct Counters {
    var inUse = 0
    var shared: GroupContent?
  }
  private let shards = (0..<shardCount).map { _ in Lock(Shard()) }
  private let counters = Lock(Counters())
  private let flusher = GroupFlusher()

  /// A counter of its own while there are some left, else the one that all share.
  func take() -> GroupContent {
    counters.withLock { counters in
      if counters.inUse < Self.mostGroups {
        counters.inUse += 1
        return GroupContent(isShared: false)
      }
      let shared = counters.shared ?? GroupContent(isShared: true)
      counters.shared = shared
      return shared
    }
  }
  func release(_ content: GroupContent) {
    if !content.isShared { counters.withLock { $0.inUse -= 1 } }
  }

  func enqueue(_ group: PersistGroup, _ continuation: CheckedContinuation<Void, any Error>) {
    flusher.enqueue(group, continuation)
  }

  /// Enters the counter as the last one that changed the lines. Returns others that did so before.
  func enter(_ content: GroupContent, _ lines: GroupContent.Lines) -> [GroupContent] {
    var earlier: [GroupContent] = []
    for line in lines.first..<lines.end {
      let hash = Int(truncatingIfNeeded: nvm_mix2(0, line, 0) >> 8)
      let before = shards[hash & (Self.shardCount - 1)].withLock { shard -> GroupContent? in
        if shard.places.isEmpty { shard.places = Array(repeating: nil, count: Self.placesPerShard) }
        let place = hash / Self.shardCount & (Self.placesPerShard - 1)
        defer { shard.places[place] = content }
        return shard.places[place]
      }
      guard let before, before !== content, !earlier.contains(where: { $0 === before }) else { continue }
      earlier.append(before)
    }
    return earlier
  }
}
