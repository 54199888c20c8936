import Foundation
import XCTest

/// Runs the tool that was built beside the tests.
class ToolTestCase: XCTestCase {
  private(set) var directory = ""

  override func setUpWithError() throws {
    let parent = FileManager.default.isWritableFile(atPath: "/dev/shm") ? "/dev/shm" : NSTemporaryDirectory()
    directory = "\(parent)/nvmctl-tests-\(getpid())-\(UInt32.random(in: 0 ... .max))"
    try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
  }
  override func tearDown() { try? FileManager.default.removeItem(atPath: directory) }

  func path(_ name: String) -> String { "\(directory)/\(name)" }
  var store: String { path("s.nvm") }

  struct Result {
    var status: Int32
    var output: String
    var errors: String
  }

  func run(_ arguments: String..., input: String = "") throws -> Result { try run(arguments, input: input) }

  /// - Parameter target: where standard output goes instead of into the result.
  func run(_ arguments: [String], input: String = "", output target: String? = nil) throws -> Result {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: try XCTUnwrap(Self.tool))
    process.arguments = arguments
    let (output, errors) = (path("out"), path("err"))
    for file in [output, errors] { _ = FileManager.default.createFile(atPath: file, contents: nil) }
    _ = FileManager.default.createFile(atPath: path("in"), contents: Data(input.utf8))
    process.standardInput = FileHandle(forReadingAtPath: path("in"))
    process.standardOutput = FileHandle(forWritingAtPath: target ?? output)
    process.standardError = FileHandle(forWritingAtPath: errors)
    try process.run()
    process.waitUntilExit()
    return Result(
      status: process.terminationStatus, output: try String(contentsOfFile: output, encoding: .utf8),
      errors: try String(contentsOfFile: errors, encoding: .utf8))
  }

  /// Runs the tool, which must succeed; returns what it printed.
  @discardableResult
  func succeed(
    _ arguments: String..., input: String = "", file: StaticString = #filePath, line: UInt = #line
  ) throws -> String {
    let result = try run(arguments, input: input)
    XCTAssertEqual(result.status, 0, "\(arguments): \(result.errors)", file: file, line: line)
    return result.output
  }

  /// Runs the tool, which must fail with this status and say these words.
  func fail(
    _ status: Int32, _ arguments: String..., saying words: String..., input: String = "",
    file: StaticString = #filePath, line: UInt = #line
  ) throws {
    let result = try run(arguments, input: input)
    XCTAssertEqual(result.status, status, "\(arguments): \(result.errors)", file: file, line: line)
    XCTAssertEqual(result.output, "", file: file, line: line)
    for word in words {
      XCTAssert(
        result.errors.contains(word), "\"\(result.errors)\" lacks \"\(word)\"", file: file, line: line)
    }
  }

  private static let tool: String? = {
    let arguments = [CommandLine.arguments.first { $0.hasSuffix(".xctest") }, try? own()]
    return arguments.compactMap { $0 }
      .map { URL(fileURLWithPath: $0).deletingLastPathComponent().appendingPathComponent("nvmctl").path }
      .first { FileManager.default.isExecutableFile(atPath: $0) }
  }()
  private static func own() throws -> String {
    try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
  }
}
