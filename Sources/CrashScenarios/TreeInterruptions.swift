import NVMBTree
import NVMTesting

/// Nodes that one thread has linked, unlinked or given back, and not yet fenced, are used at once by another: at each
/// order and fence of the first one's operation the second carries out a whole one.
enum TreeInterruptions {
  typealias Subject = TreeSubject<UInt64, UInt64>
  typealias Scenario = CrashScenario<Subject, [UInt64: UInt64]>
  typealias Operation = Scenario.Operation

  static var all: [AnyScenario] { [AnyScenario(merges), AnyScenario(splits)] }

  /// One removes, so that leaves are merged and nodes become free; the other inserts elsewhere and needs nodes.
  private static var merges: Scenario {
    scenario(
      "tree-interrupted-merge",
      (0..<18).map { i in
        (TreeScenarios.remove(10 * (i + 1)), TreeScenarios.put(400 + 10 * i + 5, i), Int(i % 3))
      })
  }

  /// Both insert, into leaves of their own: splits take nodes side by side.
  private static var splits: Scenario {
    scenario(
      "tree-interrupted-split",
      (0..<12).map { i in
        (TreeScenarios.put(10 * i + 13, i), TreeScenarios.put(400 + 10 * i + 5, i), Int(i % 3))
      })
  }

  /// The tree is there before exploring begins, so that the images are left to the operations.
  private static func scenario(_ name: String, _ pairs: [(Operation, Operation, Int)]) -> Scenario {
    var scenario = TreeScenarios.base(name, threads: [pairs.map(\.0), pairs.map(\.1)], leafCapacity: 4)
    scenario.interruptions = pairs.map(\.2)
    let create = scenario.create
    scenario.create = { region in
      let subject = try create(region)
      for i in 1..<60 { try subject.tree.updateValue(UInt64(i), forKey: UInt64(i) * 10) }
      return subject
    }
    scenario.continuation = [TreeScenarios.put(1000, 1), TreeScenarios.put(3, 2), TreeScenarios.remove(1000)]
    return scenario
  }
}
