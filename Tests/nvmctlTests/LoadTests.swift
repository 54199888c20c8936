import Foundation
import NVM
import NVMFoundation
import XCTest

final class LoadTests: ToolTestCase {
  private func put(_ text: String, _ name: String) throws -> String {
    try Data(text.utf8).write(to: URL(fileURLWithPath: path(name)))
    return path(name)
  }

  func testFormats() throws {
    try succeed("create", store)
    try succeed("load", store, try put("a\t1\nb\ttwo\\twords\n", "x.tsv"))
    try succeed(
      "load", store, try put("key,value\nc,\"3, \"\"three\"\"\"\nd,\"two\nlines\"\n", "x.csv"), "--header")
    try succeed("load", store, try put("{\"key\":\"e\",\"value\":5}\n[\"f\",\"six\"]\n\n", "x.jsonl"))
    try succeed("load", store, "-", input: "g\t7\r\nh\t8")
    try succeed("load", store, "--format", "csv", input: "i,9\n")
    XCTAssertEqual(
      try succeed("dump", store),
      "a\t1\nb\ttwo\\twords\nc\t3, \"three\"\nd\ttwo\\nlines\ne\t5\nf\tsix\ng\t7\nh\t8\ni\t9\n")
  }

  func testStopsAtABadLine() throws {
    try succeed("create", store, "--value-type", "Int")
    try fail(
      3, "load", store, "-", saying: "standard input, line 3", "\"x\" is no value", "2 entries",
      input: "a\t1\nb\t2\nc\tx\nd\t4\n")
    try fail(3, "load", store, "-", saying: "line 1", "no entry in the form tsv", input: "just words\n")
    XCTAssertEqual(try succeed("dump", store), "a\t1\nb\t2\n")
    try fail(1, "load", store, path("none"), saying: path("none"))
    try fail(3, "load", store, directory, saying: "Reading failed")
  }

  func testManyEntriesAndRoundTrip() throws {
    try succeed("create", store, "--key-type", "Int", "--media", "emulated")
    let lines = (0..<3000).map { "\($0 * 7919 % 3000)\tvalue \($0)" }
    let result = try run("load", store, "-", "--media", "emulated", input: lines.joined(separator: "\n"))
    XCTAssertEqual(result.status, 0)
    XCTAssert(result.errors.hasPrefix("3,000 entries loaded"), result.errors)
    XCTAssertFalse(result.errors.contains("\r"), "a progress bar where there is no terminal")
    for format in ["tsv", "csv", "jsonl"] {
      let dump = try succeed("dump", store, "--format", format)
      let copy = path("copy-\(format).nvm")
      try succeed("create", copy, "--key-type", "Int", "--media", "emulated")
      try succeed("load", copy, "--format", format, "--media", "emulated", input: dump)
      XCTAssertEqual(try succeed("dump", copy, "--format", format), dump)
      try succeed("check", copy)
    }
  }

  /// Dates are finer than milliseconds, and reach farther than calendars.
  func testDatesAreLoadedAsTheyWere() throws {
    let seconds = [
      785_000_000.123_456_7, 785_000_000.5, -785_000_000.123_456_7, 0.1, -0.1, -0.0, 1e-300, 1e12, -1e300,
      .infinity, Date.distantPast.timeIntervalSinceReferenceDate,
      Date.distantFuture.timeIntervalSinceReferenceDate,
      (785_000_000.0).nextUp, 785_000_000.001,
    ]
    func bits(_ path: String) throws -> [UInt64?] {
      let opened = try NVMStore.open(path: path, options: NVMStoreOptions(media: .emulated))
      defer { try? opened.close() }
      let tree = try opened.tree("main", of: Int.self, Date.self)
      return try seconds.indices.map { try tree.value(forKey: $0)?.timeIntervalSinceReferenceDate.bitPattern }
    }
    try succeed("create", store, "--key-type", "Int", "--value-type", "Date", "--media", "emulated")
    let opened = try NVMStore.open(path: store, options: NVMStoreOptions(media: .emulated))
    let tree = try opened.tree("main", of: Int.self, Date.self)
    for (i, time) in seconds.enumerated() {
      try tree.setValue(Date(timeIntervalSinceReferenceDate: time), forKey: i)
    }
    try opened.close()
    for format in ["tsv", "csv", "jsonl"] {
      let copy = path("copy-\(format).nvm")
      try succeed("create", copy, "--key-type", "Int", "--value-type", "Date", "--media", "emulated")
      try succeed("load", copy, "--format", format, input: try succeed("dump", store, "--format", format))
      XCTAssertEqual(try bits(copy), seconds.map(\.bitPattern), format)
    }
    XCTAssertEqual(try succeed("get", store, "1"), "2025-11-16T15:33:20.500Z\n")
  }

  /// A carriage return is part of a text, unless it stands before the end of a record.
  func testCarriageReturns() throws {
    try succeed("create", store)
    let texts = ["a\r\nb", "\r\n", "a\rb", "a\r", "\n", "a\n\r\n\r"]
    for (i, text) in texts.enumerated() {
      try succeed("put", store, "\(i)", text)
      try succeed("put", store, "standard input", "-", input: text + "\r\n")
      XCTAssertEqual(try succeed("get", store, "standard input"), text + "\n")
    }
    for format in ["tsv", "csv", "jsonl"] {
      let copy = path("copy-\(format).nvm")
      try succeed("create", copy)
      try succeed("load", copy, "--format", format, input: try succeed("dump", store, "--format", format))
      for (i, text) in texts.enumerated() {
        XCTAssertEqual(try succeed("get", copy, "\(i)"), text + "\n", format)
      }
    }
    try succeed("load", store, "--format", "csv", input: "x,1\r\n\"y\r\nz\",\"2\"\r\n")
    XCTAssertEqual(try succeed("scan", store, "--from", "x", "--format", "csv"), "x,1\n\"y\r\nz\",2\n")
  }
}
