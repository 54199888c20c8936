import XCTest

final class ScanTests: ToolTestCase {
  func testRanges() throws {
    try succeed("create", store, "--key-type", "Int8", "--value-type", "Int")
    try succeed("load", store, "-", input: (-5...5).map { "\($0)\t\($0 * $0)\n" }.joined())
    XCTAssertEqual(try succeed("scan", store, "--from=-1", "--to", "2"), "-1\t1\n0\t0\n1\t1\n")
    XCTAssertEqual(try succeed("scan", store, "--limit", "2"), "-5\t25\n-4\t16\n")
    XCTAssertEqual(try succeed("scan", store, "--reverse", "--limit", "2"), "5\t25\n4\t16\n")
    XCTAssertEqual(try succeed("scan", store, "--reverse", "--to", "0", "--limit", "1"), "-1\t1\n")
    XCTAssertEqual(try succeed("scan", store, "--from", "3", "--format", "csv"), "3,9\n4,16\n5,25\n")
    XCTAssertEqual(
      try succeed("scan", store, "--from", "5", "--format", "jsonl"), "{\"key\":5,\"value\":25}\n")
    XCTAssertEqual(try succeed("scan", store, "--limit", "0"), "")
    XCTAssertEqual(try succeed("scan", store, "--from", "4", "--to", "3"), "")
    try fail(2, "scan", store, "--limit=-1", saying: "--limit")
    try fail(2, "scan", store, "--from", "x", saying: "no value of type Int8")
    try fail(2, "scan", store, "--format", "xml", saying: "xml")
  }

  /// A disk that is full under the output is no success: a backup would be thought whole.
  func testOutputThatCannotBeWritten() throws {
    try succeed("create", store)
    try succeed("put", store, "key", "value")
    for command in [
      ["dump", store], ["scan", store], ["get", store, "key"], ["list", store], ["check", store],
    ] {
      let result = try run(command, output: "/dev/full")
      XCTAssertEqual(result.status, 3, "\(command)")
      XCTAssert(result.errors.contains("No space left"), "\(command): \(result.errors)")
    }
  }
}
