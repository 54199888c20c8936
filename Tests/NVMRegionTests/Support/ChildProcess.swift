import Foundation
import XCTest

struct ChildResult {
  var status: Int32
  var output: String
}

/// Runs a program to its end.
func runProgram(_ program: String, _ arguments: [String]) throws -> ChildResult {
  let process = Process()
  process.executableURL = URL(fileURLWithPath: program)
  process.arguments = arguments
  let pipe = Pipe()
  process.standardOutput = pipe
  process.standardError = pipe
  process.standardInput = FileHandle.nullDevice
  try process.run()
  let output = try pipe.fileHandleForReading.readToEnd() ?? Data()
  process.waitUntilExit()
  try pipe.fileHandleForReading.close()
  let status = process.terminationReason == .exit ? process.terminationStatus : -process.terminationStatus
  return ChildResult(status: status, output: String(decoding: output, as: UTF8.self))
}

/// The helper stands beside the test binary.
func helperPath() throws -> String {
  let own = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
  let path = URL(fileURLWithPath: own).deletingLastPathComponent().appendingPathComponent("RegionTestHelper")
    .path
  guard FileManager.default.isExecutableFile(atPath: path) else {
    throw XCTSkip("no RegionTestHelper beside \(own)")
  }
  return path
}

/// Runs the helper; its exit status must be 0. Returns its one line.
func helper(_ arguments: String..., file: StaticString = #filePath, line: UInt = #line) throws -> String {
  let result = try runProgram(try helperPath(), arguments)
  XCTAssertEqual(result.status, 0, "the helper crashed: \(result.output)", file: file, line: line)
  return result.output.trimmingCharacters(in: .whitespacesAndNewlines)
}

/// A helper that holds a file open until released.
final class HoldingHelper {
  let process = Process()
  private let input = Pipe()
  private let output = Pipe()
  var pid: Int32 { process.processIdentifier }

  init(_ path: String) throws {
    process.executableURL = URL(fileURLWithPath: try helperPath())
    process.arguments = ["hold", path]
    process.standardInput = input
    process.standardOutput = output
    try process.run()
    let line = String(decoding: output.fileHandleForReading.availableData, as: UTF8.self)
    XCTAssertEqual(line.trimmingCharacters(in: .whitespacesAndNewlines), "ok holding")
  }

  func end(killing: Bool = false) throws {
    if killing { kill(pid, SIGKILL) }
    try input.fileHandleForWriting.close()
    process.waitUntilExit()
    try output.fileHandleForReading.close()
  }
}
