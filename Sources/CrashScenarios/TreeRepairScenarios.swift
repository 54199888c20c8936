import NVMBTree
import NVMTesting

/// What recovery repairs must be durable before the tree is used again.
enum TreeRepairScenarios {
  typealias Subject = TreeSubject<UInt64, UInt64>
  typealias Scenario = CrashScenario<Subject, [UInt64: UInt64]>

  /// A split whose commit word arrives without the new entry, and is undone. The node that it took goes to another
  /// leaf; then the same split is done again, with another node. Were the undoing not durable, the first commit
  /// word would come true with the second one's entry, and lead to the node that is elsewhere now.
  static var tornSplit: Scenario {
    // The update moves an entry to slot 0, so that the split has to write another line.
    var scenario = scenario(
      "tree-torn-split", (1...16).map { ($0 * 10, $0) } + [(10, 100)], [TreeScenarios.put(15, 15)],
      then: [(170, 17), (15, 15)])
    scenario.staysInRecovery = true
    return scenario
  }

  /// An empty leaf that recovery links past: its node is used again for another place in the chain.
  static var emptyLeaf: Scenario {
    scenario(
      "tree-empty-leaf", (1...12).map { ($0 * 10, $0) }, removing: [60, 70, 80], [TreeScenarios.remove(50)],
      then: [(95, 1), (45, 2), (125, 3)])
  }

  /// The tree is there before exploring begins, so that the images are left to the few operations.
  private static func scenario(
    _ name: String, _ entries: [(UInt64, UInt64)], removing: [UInt64] = [],
    _ operations: [Scenario.Operation],
    then continuation: [(UInt64, UInt64)]
  ) -> Scenario {
    var scenario = TreeScenarios.base(name, threads: [operations], leafCapacity: 4)
    scenario.endsWithClose = false
    let create = scenario.create
    scenario.create = { region in
      let subject = try create(region)
      for (key, value) in entries { try subject.tree.updateValue(value, forKey: key) }
      for key in removing { try subject.tree.removeValue(forKey: key) }
      return subject
    }
    scenario.continuation = continuation.map { TreeScenarios.put($0, $1) }
    return scenario
  }
}
