import CrashScenarios
import NVMTesting
import XCTest

/// The mutation gate over the region and the example: no line of code that flushes or fences may be left out
/// without a scenario noticing, unless the list of excuses says why. (Heap, tree and store take longer:
/// `nvm-explore --mutants`.)
final class MutationTests: XCTestCase {
  func testEachMissingFlushAndFenceIsNoticed() {
    var gate = MutationGate()
    for scenario in Registry.all(seed: 1) where scenario.isGated {
      gate.add(scenario.mutate(CrashOptions(), false, gate.killed))
    }
    print("mutants: \(gate.killed.count) of \(gate.met.count) killed, \(gate.images) images")
    XCTAssertGreaterThan(gate.met.count, 15)
    for (mutation, _, excuse) in gate.survivors where excuse == nil {
      XCTFail("nobody notices when the code runs \(mutation)")
    }
  }
}
