import Glibc
import CrashScenarios
import NVMTesting
import XCTest

/// Mistakes planted in a linked stack on a raw region: each must be found, and the right code must pass.
final class ExampleStackTests: XCTestCase {
  /// Explores a flawed stack; returns the first violation.
  private func violation(
    _ flaw: ExampleStack.Flaw, _ change: (inout CrashScenario<ExampleStack, [UInt64]>) -> Void = { _ in },
    line: UInt = #line
  ) throws -> CrashViolation {
    var scenario = ExampleStack.scenario(flaw)
    change(&scenario)
    var options = CrashOptions()
    options.maximumViolations = 1
    options.maximumImages = 4000
    let report = CrashExplorer(options).explore(scenario)
    return try XCTUnwrap(report.violations.first, "the planted mistake was not found", line: line)
  }

  func testRightStackPasses() throws {
    var options = CrashOptions()
    options.maximumImages = 4000
    let report = CrashExplorer(options).explore(ExampleStack.scenario())
    try report.check()
    // What the region's own close flushes and fences is not the stack's business.
    XCTAssertTrue(report.lints.allSatisfy { $0.operation == "close" }, "\(report)")
    XCTAssertGreaterThan(report.images, 500)
    XCTAssertGreaterThan(report.recoveryPoints, 100)
    XCTAssertEqual(report.costs.first { $0.operation == "push" }?.mostFences, 2)
    XCTAssertEqual(report.costs.first { $0.operation == "push" }?.mostFlushedLines, 3)
  }

  /// A size that no region can have is a failure of the scenario, and any other is rounded up.
  func testSizesOfRegions() throws {
    for model in [CrashModel.cacheLine, .journaledFile] {
      var options = CrashOptions(model: model)
      options.maximumImages = 50
      for size in [4096, 0, -1, Int.min, 8192] {
        var scenario = ExampleStack.scenario()
        scenario.regionSize = size
        let report = CrashExplorer(options).explore(scenario)
        XCTAssertEqual(report.violations.map(\.kind), [.failedOperation], "\(size)")
        XCTAssertTrue(report.violations[0].message.contains("regionSize"), "\(report)")
      }
      var scenario = ExampleStack.scenario()
      scenario.regionSize = 12_300
      try CrashExplorer(options).explore(scenario).check()
    }
  }

  func testMissingFlush() throws {
    try XCTSkipIf(
      getenv("NVM_PROTECTION") != nil, "Stores are named by who calls the medium, and there it is the guard."
    )
    let found = try violation(.missingFlush)
    // Shrunk to one line of the node, and the report says whose it is.
    XCTAssertEqual(Set(found.losses.map(\.offset)).count, 1, found.description)
    XCTAssertEqual(found.losses.first?.reason, "never flushed")
    XCTAssertTrue(found.losses.first?.operation.contains("push") ?? false, found.description)
    #if DEBUG  // else it is inlined where it is called
      XCTAssertTrue(found.losses.first?.site.function.contains("writeNode") ?? false, found.description)
    #endif
    XCTAssertTrue(found.description.contains("LOST"), found.description)
  }

  func testMissingFenceBeforePublish() throws {
    let found = try violation(.missingOrder)
    XCTAssertEqual(found.losses.first?.reason, "flushed, not fenced")
  }

  func testMissingFenceBeforeAcknowledgement() throws {
    let found = try violation(.missingFence)
    XCTAssertEqual(found.kind, .wrongState)
    XCTAssertTrue(found.crashPoint.contains("acknowledged"), found.description)
  }

  func testPublishTooEarly() throws {
    XCTAssertTrue([.refused, .wrongState].contains(try violation(.publishTooEarly).kind))
  }

  func testFlushAfterPublish() throws { XCTAssertEqual(try violation(.flushAfterPublish).kind, .refused) }

  func testObjectCrossesLineFirstLineFlushedOnly() throws {
    let found = try violation(.firstLineOnly)
    XCTAssertEqual(found.losses.first.map { $0.offset % 128 }, 64, found.description)
  }

  func testStoreAfterFlush() throws {
    XCTAssertEqual(try violation(.storeAfterFlush).losses.first?.reason, "never flushed")
    let report = CrashExplorer().explore(ExampleStack.scenario(.storeAfterFlush))
    XCTAssertTrue(report.lints.contains { $0.kind == .storeBetweenFlushAndFence }, "\(report)")
  }

  func testStoreRoundThePrimitives() throws {
    let found = try violation(.strayStore)
    XCTAssertEqual(found.kind, .strayStore)
    XCTAssertTrue(found.message.contains("push"), found.message)
  }

  func testRedundantFlushAndFence() throws {
    for (flaw, kind) in [
      (ExampleStack.Flaw.redundantFlush, CrashLint.Kind.redundantFlush), (.redundantFence, .redundantFence),
    ] {
      var options = CrashOptions()
      options.maximumImages = 500
      let report = CrashExplorer(options).explore(ExampleStack.scenario(flaw))
      XCTAssertTrue(report.lints.contains { $0.kind == kind && $0.operation == "push" }, "\(report)")
      XCTAssertEqual(report.violations.map(\.kind), [.overBudget])
    }
  }

  func testDirtyLineAtAcknowledgement() throws {
    let unflushed = CrashExplorer().explore(ExampleStack.scenario(.missingFlush))
    XCTAssertTrue(unflushed.lints.contains { $0.kind == .dirtyAtAcknowledgement }, "\(unflushed)")
    let unfenced = CrashExplorer().explore(ExampleStack.scenario(.missingFence))
    XCTAssertTrue(unfenced.lints.contains { $0.kind == .unfencedAtAcknowledgement }, "\(unfenced)")
  }

  func testPersistedLock() throws { XCTAssertEqual(try violation(.persistedLock).kind, .refused) }

  func testPersistedAddress() throws {
    // Each image is mapped at another address than the run.
    XCTAssertTrue([.refused, .continuation].contains(try violation(.persistedAddress).kind))
  }

  func testCreationNeverPersisted() throws {
    let found = try violation(.unpersistedCreation)
    XCTAssertTrue(found.crashPoint.contains("ready"), found.description)
  }

  func testOldNodeReusedBeforeUnlinkIsDurable() throws {
    XCTAssertEqual(try violation(.reuseBeforeUnlink).kind, .refused)
  }

  func testFalseReportOfCorruption() throws { XCTAssertEqual(try violation(.refusesEmpty).kind, .refused) }

  func testMissingFlushIsInvisibleToAutomaticFlush() throws {
    // As it must be: there the caches survive. The fence order does not matter either.
    var options = CrashOptions(model: .automaticFlush)
    options.maximumImages = 1000
    try CrashExplorer(options).explore(ExampleStack.scenario(.missingFlush)).check()
    XCTAssertFalse(CrashExplorer(options).explore(ExampleStack.scenario(.publishTooEarly)).violations.isEmpty)
  }
}
