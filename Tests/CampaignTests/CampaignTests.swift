import Foundation
import XCTest

/// A few rounds of each campaign; how to run many: `Documentation/TESTING.md`. A round that fails is kept, and its
/// output says where.
final class CampaignTests: XCTestCase {
  private var directory = ""

  override func setUpWithError() throws {
    directory = NSTemporaryDirectory() + "/nvm-campaign-tests-\(getpid())-\(UInt32.random(in: 0 ... .max))"
    try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
  }

  override func tearDown() {
    // What was kept of a failure stays.
    if testRun?.hasSucceeded ?? false { try? FileManager.default.removeItem(atPath: directory) }
  }

  private struct Results: Decodable {
    var rounds: Int
    var counts: [String: Int]
    var violations: [String]
    var skipped: [String]
  }

  /// Runs the tool, found beside the test binary.
  @discardableResult
  private func campaign(
    _ arguments: [String], status: Int32 = 0, file: StaticString = #filePath, line: UInt = #line
  ) throws -> (results: Results?, output: String) {
    let own = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
    let candidates = [own, CommandLine.arguments.first { $0.hasSuffix(".xctest") } ?? own].map {
      URL(fileURLWithPath: $0).deletingLastPathComponent().appendingPathComponent("nvm-campaign").path
    }
    let tool = try XCTUnwrap(
      candidates.first { FileManager.default.isExecutableFile(atPath: $0) }, file: file, line: line)
    let json = directory + "/results.json"
    try? FileManager.default.removeItem(atPath: json)
    let process = Process()
    process.executableURL = URL(fileURLWithPath: tool)
    process.arguments =
      arguments + (arguments[0] == "check" ? [] : ["--quiet", "--json", json, "--keep", directory + "/kept"])
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = pipe
    try process.run()
    let output = String(decoding: try pipe.fileHandleForReading.readToEnd() ?? Data(), as: UTF8.self)
    process.waitUntilExit()
    XCTAssertEqual(process.terminationStatus, status, output, file: file, line: line)
    let results = FileManager.default.contents(atPath: json).flatMap {
      try? JSONDecoder().decode(Results.self, from: $0)
    }
    return (results, output)
  }

  private var seed: String { String(UInt32.random(in: 1 ... .max)) }

  func testWorkersKilledInMidWork() throws {
    let (results, output) = try campaign(["kill", "--rounds", "60", "--seed", seed])
    let found = try XCTUnwrap(results)
    XCTAssertEqual(found.rounds, 60, output)
    XCTAssertGreaterThan(found.counts["steps"] ?? 0, 0, output)
    print(output)
  }

  func testAnAcknowledgementBeforeTheOperationIsFoundAndCanBeLookedAtAgain() throws {
    let (results, output) = try campaign([
      "kill", "--rounds", "60", "--seed", seed, "--control", "--disk-every", "0",
    ])
    XCTAssertGreaterThan(results?.counts["rounds that found it"] ?? 0, 0, output)
    let kept = try XCTUnwrap(FileManager.default.contentsOfDirectory(atPath: directory + "/kept").first)
    let again = try campaign(["check", directory + "/kept/" + kept], status: 1)
    XCTAssert(again.output.contains("still wrong: thread"), again.output)
  }

  func testPowerCuts() throws {
    let (results, output) = try campaign(["cut", "--rounds", "24", "--seed", seed])
    let found = try XCTUnwrap(results)
    print(output)
    if found.rounds == 0 { throw XCTSkip(found.skipped.joined(separator: "; ")) }
    XCTAssertEqual(found.rounds, 24, output)
  }

  /// Until one is found: which syncs are dropped, and where the cut falls, is up to chance; 24 rounds can find nothing.
  func testDroppedSyncsAreFound() throws {
    let (results, output) = try campaign([
      "cut", "--rounds", "1000", "--violations", "1", "--seed", seed, "--control",
    ])
    let found = try XCTUnwrap(results)
    if found.rounds == 0 { throw XCTSkip(found.skipped.joined(separator: "; ")) }
    XCTAssertGreaterThan(found.counts["rounds that found it"] ?? 0, 0, output)
  }

  func testWrongArguments() throws {
    for words in [
      ["burn"], ["kill", "--rounds"], ["kill", "--threads", "0"], ["cut", "--fs", "ext3"], ["check"],
    ] {
      let (_, output) = try campaign(words, status: 2)
      XCTAssert(output.hasPrefix("nvm-campaign: "), output)
    }
  }
}
