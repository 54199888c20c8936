import CrashScenarios
import Glibc
import NVMRegion
import NVMTesting
import XCTest

/// The mutation gate over the region and the example: no line of code that flushes or fences may be left out
/// without a scenario noticing, unless the list of excuses says why. (Heap, tree and store take longer:
/// `nvm-explore --mutants`.)
final class MutationTests: XCTestCase {
  func testEachMissingFlushAndFenceIsNoticed() throws {
    try XCTSkipIf(
      getenv("NVM_PROTECTION") != nil, "Mutants are named by who calls the medium, and there it is the guard."
    )
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

  #if DEBUG
    /// Each checksum that recovery relies on is believed unread in turn: some scenario must notice.
    ///
    /// But for the superblock's: what changes together there (sequence, size, clean mark, incarnation) may be torn in
    /// any way and still say what was true before or is true after. It guards against rot, as BadInputTests shows.
    func testEachChecksumIsNeeded() {
      let scenarios: [(TrustedChecksum, CrashModel, String)] = [
        (.heapHeader, .cacheLine, "heap-table-move"), (.logRecord, .cacheLine, "heap-publish"),
        (.leaf, .cacheLine, "tree-insert-random"), (.journal, .journaledFile, "region-laps"),
      ]
      for (checksum, model, name) in scenarios {
        guard let scenario = Registry.all(seed: 1).first(where: { $0.name == name }) else {
          XCTFail("no scenario \(name)")
          continue
        }
        var options = CrashOptions(model: model)
        options.maximumImages = 4000
        // What the checksum is for shows in what one crash leaves.
        options.recoveryDepth = 0
        options.continuationInterval = 0
        options.maximumViolations = 1
        options.shrinks = false
        let report = checksum.whileTrusted { scenario.explore(options) }
        XCTAssertFalse(
          report.violations.isEmpty, "nobody notices when the \(checksum) checksum is not verified")
      }
    }
  #endif

  /// The same for the writes and syncs of the journal itself.
  func testEachMissingSyncOfTheJournalIsNoticed() {
    var gate = MutationGate()
    for scenario in Registry.all(seed: 1) where scenario.name == "region-laps" {
      var options = CrashOptions(model: .journaledFile)
      options.maximumImages = 1500
      gate.add(scenario.mutate(options, false, gate.killed))
    }
    XCTAssertGreaterThan(gate.met.count, 8)
    for (mutation, _, _) in gate.survivors { XCTFail("nobody notices when the code runs \(mutation)") }
  }
}
