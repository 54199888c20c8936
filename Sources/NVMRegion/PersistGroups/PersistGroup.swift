import Dispatch

/// Changes whose durability can be asked for later, without stalling: the cache line counters of the paper, in software.
///
/// ```swift
/// let group = region.makePersistGroup()
/// try region.store(41, at: place, in: group)     // its write-back has begun; nothing waits
/// …
/// if group.isPersisted { … }                     // never stalls
/// try group.wait()                               // or: try await group.persisted()
/// ```
///
/// A group holds the 64-byte lines that were changed under it and are not yet known to be durable. Their write-back is
/// started with each change; they count as durable after the next `fence` (or `order`) of the thread that changed them,
/// for whatever reason it fences, so that one fence settles all groups of its thread. Who waits on another thread
/// writes the remaining lines back itself and fences once.
///
/// - **Conflicts**: when a line is changed under one group and then under another, the later group is not reported
///   persisted before the earlier one is. Groups that change the same lines in turn are persisted together.
/// - **Nesting**: a change belongs to the one group that its call names; there is no current group of a thread or task.
/// - **Too many**: as the paper's counter C0, one counter serves all groups beyond 4,096 at a time in a region: each of
///   them is persisted when all of them are. A thread that has made 16,384 changes under groups since its last
///   fence, or a group at the end of 64 each in conflict with the one before, is settled by the change that comes then,
///   at the price of a fence; so is each change by a thread beyond the 511th that is alive at a time.
/// - **Journal**: there a group is a position in the journal, settled by whoever syncs past it.
/// - **Crash**: of an unsettled group any part may be there, by the fault model of the medium. Order within it is made
///   with ``PersistentRegion/order()``, as always.
///
/// A group is used again and again: it is persisted whenever no change is outstanding. Thread-safe; a change that runs
/// beside a question may or may not be in the answer. Memory: 8 bytes for
/// each outstanding change, and some 70 KiB for each thread that changes something under groups.
public final class PersistGroup: Sendable {
  /// The region whose changes it gathers.
  public let region: PersistentRegion
  let content: GroupContent
  /// The counter's number.
  @usableFromInline let id: UInt64

  init(_ region: PersistentRegion, _ content: GroupContent) {
    self.region = region
    self.content = content
    id = content.id
  }
  deinit { region.groups.release(content, region) }

  /// Whether everything changed under the group so far is durable. Never waits: where somebody is settling the group at
  /// this moment, the answer is no. O(threads that changed something, and groups in conflict).
  public var isPersisted: Bool {
    // What this thread has put off would otherwise never be on its way.
    if region.journal == nil { region.flushPending() }
    return region.isSettled(content)
  }

  /// How many lines changed under the group are not yet known to be durable; a line counts once for each of several
  /// stretches of work on it. O(outstanding ranges).
  public var outstandingLines: Int { region.outstandingLines(content) }

  /// Returns when everything changed under the group before the call is durable. Starts what write-back is missing; at
  /// most one fence, none where the group is persisted.
  /// - Throws: `.ioFailure` when the disk fails: then nobody knows, and the region is poisoned. `.closed`.
  public func wait() throws(NVMError) {
    try region.settleGroup(content)
  }

  /// The same without blocking a thread of the cooperative pool. On files a thread of the region's own waits, for all
  /// that ask at the same time together. On persistent memory a fence takes less than handing a task over, and the
  /// task makes it itself, but where other threads have left many lines to write back.
  ///
  /// Cancellation: a task that is cancelled before gets `CancellationError`, and one that is cancelled meanwhile is told
  /// when the group is durable, as otherwise. What was changed under the group is not undone.
  /// - Throws: as ``wait()``, and `CancellationError`.
  public func persisted() async throws {
    try Task.checkCancellation()
    if isPersisted { return try region.checkUsable() }
    if region.isQuicklySettled(content) { return try region.settleGroup(content) }
    try await withCheckedThrowingContinuation { continuation in
      region.groups.enqueue(self, continuation)
    }
  }
}

/// Waits for groups on behalf of tasks: one barrier for all that have come while the last one was under way.
final class GroupFlusher: Sendable {
  private struct Waiting {
    var tasks: [(PersistGroup, CheckedContinuation<Void, any Error>)] = []
    var isRunning = false
  }
  private let waiting = Lock(Waiting())
  private let queue = DispatchQueue(label: "swift-nvm.persist-groups")

  func enqueue(_ group: PersistGroup, _ continuation: CheckedContinuation<Void, any Error>) {
    let isFirst = waiting.withLock { waiting -> Bool in
      waiting.tasks.append((group, continuation))
      defer { waiting.isRunning = true }
      return !waiting.isRunning
    }
    if isFirst { queue.async { self.run() } }
  }

  private func run() {
    while true {
      let tasks = waiting.withLock { waiting in
        defer { waiting.tasks.removeAll() }
        if waiting.tasks.isEmpty { waiting.isRunning = false }
        return waiting.tasks
      }
      guard let region = tasks.first?.0.region else { return }
      do throws(NVMError) {
        try region.settleGroups(tasks.map(\.0.content))
        for (_, continuation) in tasks { continuation.resume() }
      } catch {
        for (_, continuation) in tasks { continuation.resume(throwing: error) }
      }
    }
  }
}
