import CNVM

/// The counters of a region: which are in use, and what belongs to those that are not given to a group any more.
final class GroupRegistry: Sendable {
  /// Numbers of counters fit in an entry and in a table's word.
  static let mostGroups = Int(NVM_GROUP_COUNTERS) - 1

  private struct Counters {
    /// By number; 0 is shared by the groups beyond the limit.
    var all = [GroupContent(id: 0)]
    var free: [GroupContent] = []
    /// Their groups are gone, but not all that was changed under them was settled: later ones may have to wait for it.
    var left: [GroupContent] = []
  }
  private let counters = Lock(Counters())
  private let flusher = GroupFlusher()
  let records = GroupRecords()

  deinit { records.deallocate() }

  /// A counter of its own while there are some left, else the one that all share.
  func take(_ region: PersistentRegion) -> GroupContent {
    counters.withLock { counters in
      if counters.free.isEmpty {
        // A few at a time, so that this stays short.
        for _ in 0..<min(8, counters.left.count) {
          let content = counters.left.removeLast()
          if region.isSettled(content) {
            counters.free.append(content)
          } else {
            counters.left.insert(content, at: 0)
          }
        }
      }
      if let content = counters.free.popLast() { return content }
      guard counters.all.count <= Self.mostGroups else { return counters.all[0] }
      let content = GroupContent(id: counters.all.count)
      counters.all.append(content)
      return content
    }
  }

  func release(_ content: GroupContent, _ region: PersistentRegion) {
    guard !content.isShared else { return }
    let isSettled = region.isSettled(content)
    counters.withLock { counters in
      if isSettled { counters.free.append(content) } else { counters.left.append(content) }
    }
  }

  func content(_ id: UInt64) -> GroupContent { counters.withLock { $0.all[Int(id)] } }

  /// Makes what a thread slot needs to note changes. False where it must settle them at once.
  func makeArea(_ slot: Int, _ region: PersistentRegion) -> Bool {
    // Nobody knows which of the threads that share slot 0 has fenced.
    slot != 0 && counters.withLock { _ in records.makeArea(slot, region.baseAddress) }
  }

  func enqueue(_ group: PersistGroup, _ continuation: CheckedContinuation<Void, any Error>) {
    flusher.enqueue(group, continuation)
  }
}
