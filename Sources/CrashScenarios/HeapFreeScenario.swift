import NVMTesting

/// Many frees in one call: a crash in the middle leaves any of the blocks allocated, and on return none.
enum HeapFreeScenario {
  typealias Scenario = CrashScenario<HeapHarness, State>
  typealias Operation = Scenario.Operation

  /// The blocks held by owner tokens, and those that a call under way may have freed. A model's state equals an observed
  /// one when any of these make the difference.
  struct State: Equatable, Sendable {
    var held: [UInt32: Int] = [:]
    var doomed: Set<UInt32> = []
    var isObserved = false

    static func == (a: State, b: State) -> Bool {
      if a.isObserved == b.isObserved { return a.held == b.held && a.doomed == b.doomed }
      let (model, seen) = a.isObserved ? (b, a) : (a, b)
      return Set(model.held.keys).union(seen.held.keys).allSatisfy { owner in
        seen.held[owner] == model.held[owner]
          || seen.held[owner] == nil && model.doomed.contains(owner)
      }
    }
  }

  /// Blocks of several sizes, some large, in several lines and in slabs that are given back; what they leave is used again.
  static func make() -> Scenario {
    let options = HeapHarness.options()
    var operations: [Operation] = []
    for owner in 1...10 as ClosedRange<UInt32> { operations.append(hold(owner, 30)) }
    operations += [hold(11, 200), hold(12, 9000), hold(13, 700)]
    operations += release([9, 12, 3, 11, 1])
    operations += [hold(14, 30), hold(15, 9000)]
    operations += release([2, 4, 5, 6, 7, 8, 10, 13, 14])
    operations += [hold(16, 2000)]
    operations += release([15, 16])
    var scenario = Scenario(
      "heap-free-many", create: { try HeapHarness.create($0, options) },
      open: { try HeapHarness.open($0, options) },
      observe: { State(held: try $0.observe().held, isObserved: true) }, operations: operations)
    scenario.invariant = { try $0.verify() }
    scenario.close = { $0.close() }
    scenario.continuation = [hold(20, 30), hold(21, 9000)] + release([20, 21])
    return scenario
  }

  private static func hold(_ owner: UInt32, _ size: Int) -> Operation {
    Operation("allocate") {
      try $0.hold(owner, size)
    } model: {
      $0.isObserved = false
      if $0.held[owner] == nil { $0.held[owner] = size }
    }
  }

  private static func release(_ owners: [UInt32]) -> [Operation] {
    [
      Operation("intend to free many") { _ in
      } model: {
        $0.isObserved = false
        $0.doomed = Set(owners)
      },
      Operation("free many") {
        try $0.release(owners)
      } model: {
        $0.isObserved = false
        $0.doomed = []
        for owner in owners { $0.held[owner] = nil }
      },
    ]
  }
}
