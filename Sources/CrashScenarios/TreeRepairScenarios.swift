import NVMBTree
import NVMTesting

/// What recovery repairs must be durable before the tree is used again, also by threads that did not recover it:
/// their fences do not cover the recovering thread's flushes. So the work goes on in another thread here.
enum TreeRepairScenarios {
  typealias Subject = TreeSubject<UInt64, UInt64>
  typealias Scenario = CrashScenario<Subject, [UInt64: UInt64]>

  /// A split whose commit word arrives without the new entry, and is undone. The node that it took goes to another
  /// leaf; then the same split is done again, with another node. Were the undoing not durable, the first commit
  /// word would come true with the second one's entry, and lead to the node that is elsewhere now.
  static var tornSplit: Scenario {
    // The updates move an entry to slot 0, so that each split has to write another line.
    scenario(
      "tree-torn-split", (1...16).map { ($0 * 10, $0) } + [(10, 100), (50, 500), (90, 900)],
      [15, 55, 95].map { TreeScenarios.put($0, $0) }, then: [(170, 17), (15, 15), (55, 55), (95, 95)])
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
    scenario.continuation = continuation.map { key, value in
      Scenario.Operation("put from another thread") { subject in
        let failed = Failure()
        Threads.run([
          {
            do { try subject.tree.updateValue(value, forKey: key) } catch { failed.note("\(error)") }
          }
        ])
        if let text = failed.text { throw TreeFault(text) }
      } model: {
        $0[key] = value
      }
    }
    return scenario
  }

  /// Written by a thread that is joined before it is read.
  private final class Failure: @unchecked Sendable {
    private(set) var text: String?
    func note(_ text: String) { self.text = text }
  }
}
