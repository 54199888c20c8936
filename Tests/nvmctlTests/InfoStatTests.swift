import XCTest

final class InfoTests: ToolTestCase {
  func testShowsFileAndMedium() throws {
    try succeed("create", store, "--size", "4M", "--media", "emulated")
    let text = try succeed("info", store)
    for word in [
      store, "4 MiB (4,194,304 bytes)", "emulated persistent memory", "properly", "trees         1",
    ] {
      XCTAssert(text.contains(word), "\(text) lacks \(word)")
    }
  }

  func testHelpAndUsage() throws {
    let help = try succeed("--help")
    for word in ["create", "scan", "Exit status", "standard input", "String, Bytes"] {
      XCTAssert(help.contains(word), word)
    }
    for command in [
      "create", "info", "list", "load", "get", "put", "delete", "scan", "dump", "check", "stat",
    ] {
      XCTAssert(try succeed(command, "--help").contains("USAGE: nvmctl \(command)"), command)
    }
    XCTAssert(try succeed("--version").contains("swift-nvm"))
    try fail(2, "frobnicate", saying: "frobnicate")
    try fail(2, "get", store, "x", "--frobnicate", saying: "--frobnicate")
    try fail(2, "info", store, "--media", "tape", saying: "tape")
  }
}

final class StatTests: ToolTestCase {
  func testShowsFigures() throws {
    try succeed("create", store)
    try succeed(
      "load", store, "-", input: (0..<100).map { "key number \($0)\tvalue number \($0)\n" }.joined())
    let text = try succeed("stat", store, "--classes")
    for word in ["tree main", "entries         100", "height", "fragmentation", "block size"] {
      XCTAssert(text.contains(word), "\(text) lacks \(word)")
    }
  }
}

final class ListTests: ToolTestCase {
  func testIsEmptyForAnEmptyStore() throws {
    try succeed("create", store)
    try succeed("delete", store, "--whole-tree")
    XCTAssertEqual(try succeed("list", store), "")
    try fail(3, "list", "/dev/null", saying: "not a regular file")
  }
}
