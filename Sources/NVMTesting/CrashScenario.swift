public import NVMRegion

/// A structure on a region, what is done to it, and how to tell whether a crash harmed it.
///
/// ```swift
/// let scenario = CrashScenario<Stack, [Int]>(
///   "stack", create: Stack.create, open: Stack.open, observe: { try $0.elements() },
///   operations: [
///     CrashOperation("push 1") { try $0.push(1) } model: { $0.append(1) },
///     CrashOperation("pop") { try $0.pop() } model: { $0.popLast() },
///   ])
/// try CrashExplorer().explore(scenario).check()
/// ```
///
/// `State` is a plain value that describes the content. What `observe` reads from a structure that was
/// opened after a crash must equal the state after all acknowledged operations, with each one that was in
/// flight done wholly or not at all. The closures must not depend on anything but their arguments: they run
/// on thousands of images.
public struct CrashScenario<Structure, State: Equatable & Sendable>: Sendable {
  public typealias Operation = CrashOperation<Structure, State>

  public var name: String
  /// Bytes of the region: small ones are explored faster and reach their limits sooner. At least
  /// `PersistentRegion.minimumSize`.
  public var regionSize = 64 << 10
  /// How far the region may grow; `nil` for not at all.
  public var maximumSize: Int?
  /// Lays the structure out on a fresh region. Must be durable on return.
  public var create: @Sendable (PersistentRegion) throws -> Structure
  /// Opens the structure, recovering it where necessary. An error is a violation: no crash leaves a region
  /// that may be refused.
  public var open: @Sendable (PersistentRegion) throws -> Structure
  /// Reads the whole content.
  public var observe: @Sendable (Structure) throws -> State
  /// The operations of each thread. The threads start together, after `create`.
  public var threads: [[Operation]]
  /// Makes the meeting of two threads the same in every run: the second one's k-th operation runs from
  /// beginning to end while the first one's k-th stands before its `interruptions[k]`-th order or fence (counted
  /// from 0), or after it where it has fewer. Where the second needs a lock that the first holds, it goes on when
  /// it gets it. Shows what the first has published to other threads without having fenced it.
  public var interruptions: [Int]?
  /// Operations run after recovery, to see that the structure still works. By another thread than the one that
  /// recovered.
  public var continuation: [Operation] = []
  /// Throws where the structure is not sound: links, checksums, leaks.
  public var invariant: @Sendable (Structure) throws -> Void = { _ in }
  /// Stops what the structure runs in the background and makes its last changes durable. Called before the
  /// region is closed, and for structures that are thrown away.
  public var close: @Sendable (Structure) throws -> Void = { _ in }
  /// Whether a crash inside `create` is looked at: then it must leave either nothing that opens, or the
  /// structure. (A file made by `PersistentRegion.create` has no name until it is complete.)
  public var exploresCreation = false
  /// Whether the run ends with `close` and the region's own close.
  public var endsWithClose = true
  /// Operation name to the most it may flush and wait.
  public var budgets: [String: CrashBudget] = [:]
  /// Whether the torn states of the region's superblock are tried in full. Scenarios of the region do.
  var exploresSuperblock = false
  /// Few operations, whose point is what a second crash leaves of the work after a recovery: many more recoveries
  /// are crashed at each crash point, whatever the budget.
  package var staysInRecovery = false

  /// A scenario of one thread.
  public init(
    _ name: String, create: @escaping @Sendable (PersistentRegion) throws -> Structure,
    open: @escaping @Sendable (PersistentRegion) throws -> Structure,
    observe: @escaping @Sendable (Structure) throws -> State, operations: [Operation]
  ) {
    self.init(name, create: create, open: open, observe: observe, threads: [operations])
  }

  /// A scenario of several threads.
  public init(
    _ name: String, create: @escaping @Sendable (PersistentRegion) throws -> Structure,
    open: @escaping @Sendable (PersistentRegion) throws -> Structure,
    observe: @escaping @Sendable (Structure) throws -> State, threads: [[Operation]]
  ) {
    self.name = name
    self.create = create
    self.open = open
    self.observe = observe
    self.threads = threads
  }

  package mutating func exploreSuperblock() { exploresSuperblock = true }
  var capacity: Int { max(maximumSize ?? 0, firstSize) }
  /// The region's size at first, in whole pages.
  var firstSize: Int { (max(regionSize, 0) + 4095) & ~4095 }
}

/// The most that one operation may cost, counted on the simulated medium.
public struct CrashBudget: Sendable, Equatable {
  public var flushedLines: Int
  /// Orders and fences: the same instruction on cache-line media.
  public var fences: Int

  public init(flushedLines: Int, fences: Int) {
    self.flushedLines = flushedLines
    self.fences = fences
  }
}
