import CNVM
import Foundation
import XCTest

/// Stray writes by a child process, which they are to end with a report.
final class StrayWriteTests: RegionTestCase {
  override func setUpWithError() throws {
    try super.setUpWithError()
    // It would also end a child by its own report in the place of the signal.
    try skipUnderThreadSanitizer()
  }

  private var protections: [String] {
    ["deferred", "immediate"] + (nvm_guard_has_keys() != 0 ? ["keys"] : [])
  }

  private func child(_ what: String, path: String) throws -> ChildResult {
    // Without the backtracer, which takes its time and says nothing new.
    setenv("SWIFT_BACKTRACE", "enable=no", 1)
    defer { unsetenv("SWIFT_BACKTRACE") }
    return try runProgram(try helperPath(), ["stray", path, what])
  }

  /// The number behind a word that the child printed.
  private func number(_ word: String, _ output: String) throws -> Int {
    let line = output.split(separator: "\n").first { $0.hasPrefix(word + " ") }
    return try XCTUnwrap(Int(try XCTUnwrap(line, output).dropFirst(word.count + 1)), output)
  }

  @discardableResult
  private func assertStopped(
    _ what: String, mentioning words: [String] = [], file: StaticString = #filePath, line: UInt = #line
  ) throws -> String {
    let path = memoryPath(what)
    let result = try child(what, path: path)
    let output = result.output
    XCTAssertEqual(result.status, -SIGSEGV, output, file: file, line: line)
    let offset = try number("stray", output)
    let expected =
      [
        "swift-nvm: stray write into \(path)", "offset    \(offset) (0x\(String(offset, radix: 16)))",
        "page      \(offset / 4096), in the granule \(offset & ~0xFFFF) ..< \(offset & ~0xFFFF + 0x10000)",
        "protection \(what.prefix { $0 != "-" })", "requests pending", "The write has not happened",
      ] + words
    for words in expected {
      XCTAssertTrue(output.contains(words), "no '\(words)' in: \(output)", file: file, line: line)
    }
    XCTAssertFalse(output.contains("not stopped"), output, file: file, line: line)
    // And it is true.
    let content = try Data(contentsOf: URL(fileURLWithPath: path))
    if !what.hasSuffix("ended") {
      XCTAssertEqual(content[offset..<offset + 8], Data(count: 8), what, file: file, line: line)
    }
    return output
  }

  func testAClosedGranule() throws {
    // With keys the other window opens the whole region.
    for protection in protections where protection != "keys" { try assertStopped("\(protection)-closed") }
  }

  func testAfterTheLastWindow() throws {
    for protection in protections {
      try assertStopped("\(protection)-ended")
      // What was stored under the window is there.
      let bytes = try bytes(of: memoryPath("\(protection)-ended"))
      XCTAssertEqual(bytes[2 << 20], 77)
    }
  }

  func testTheReportNamesTheBlock() throws {
    for protection in protections {
      let small = try assertStopped(
        "\(protection)-block", mentioning: ["a live block", "tag 21, owner 22"])
      let block = try number("block", small)
      XCTAssertTrue(small.contains("at offset \(block - 16), 256 bytes"), small)
      let large = try assertStopped(
        "\(protection)-extent", mentioning: ["a live extent", "tag 31, owner 32"])
      XCTAssertTrue(large.contains("at offset \(try number("block", large)), 311296 bytes"), large)
    }
  }

  func testTheHandlerBeforeRunsAfterTheReport() throws {
    for protection in protections {
      let result = try child("\(protection)-handler", path: memoryPath(protection))
      XCTAssertEqual(result.status, 3, result.output)
      let report = try XCTUnwrap(result.output.range(of: "The write has not happened"), result.output)
      let handler = try XCTUnwrap(result.output.range(of: "the handler before"), result.output)
      XCTAssertLessThan(report.lowerBound, handler.lowerBound)
    }
  }

  /// A handler that was there before, and mends its own faults, is called each time: also for one address twice.
  func testAHandlerBeforeThatMends() throws {
    for protection in protections {
      let output = try assertStopped("\(protection)-mending")
      XCTAssertTrue(output.contains("mended 2\n"), output)
    }
  }

  /// `kill -SEGV` ends the process, or is ignored, as without a region.
  func testASignalThatIsSent() throws {
    for protection in protections {
      let sent = try child("\(protection)-sent", path: memoryPath("sent-\(protection)"))
      XCTAssertEqual(sent.status, -SIGSEGV, sent.output)
      XCTAssertFalse(sent.output.contains("went on"), sent.output)
      let ignored = try assertStopped("\(protection)-ignored")
      XCTAssertTrue(ignored.contains("went on\ngranted\n"), ignored)
    }
  }

  func testTheGrownPart() throws {
    for protection in protections { try assertStopped("\(protection)-growth") }
  }

  func testADescriberThatFaults() throws {
    for protection in protections {
      try assertStopped("\(protection)-describer", mentioning: ["owner     not known"])
    }
  }

  func testForkedChildren() throws {
    for protection in protections {
      let result = try child("\(protection)-fork", path: memoryPath(protection))
      XCTAssertEqual(result.status, 0, result.output)
      XCTAssertTrue(result.output.contains("other 0\n"), result.output)
      // Its parent's window is open in the immediate way, since the pages are.
      guard protection != "immediate" else { continue }
      XCTAssertTrue(result.output.contains("by a forked child"), result.output)
      XCTAssertTrue(result.output.contains("child \(SIGSEGV)\n"), result.output)
    }
  }

  private func skipWithoutKeys() throws {
    if !protections.contains("keys") {
      throw XCTSkip("no protection keys here: Tests/run-with-protection-keys.sh has them")
    }
  }

  func testAKeyThatARegionHadBefore() throws {
    try skipWithoutKeys()
    try assertStopped("keys-reused")
  }

  /// A thread that was there before the key may not even read, until its first access has faulted.
  func testKeysAndAnOlderThread() throws {
    try skipWithoutKeys()
    let result = try child("keys-older", path: memoryPath())
    XCTAssertEqual(result.status, 0, result.output)
    XCTAssertTrue(result.output.contains("read 7 7, 1 faults\n"), result.output)
  }

  func testSystemCallsGetEFAULT() throws {
    for protection in protections {
      let result = try child("\(protection)-efault", path: memoryPath(protection))
      XCTAssertEqual(result.status, 0, result.output)
      XCTAssertTrue(result.output.contains("read -1 EFAULT\nread 8\n"), result.output)
    }
  }
}
