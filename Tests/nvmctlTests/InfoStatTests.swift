import NVM
import NVMRegion
import NVMalloc
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
      "create", "info", "list", "load", "get", "put", "delete", "scan", "dump", "check", "stat", "wear",
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

final class WearTests: ToolTestCase {
  func testDrawsWhatWasCounted() throws {
    try succeed("create", store, "--media", "emulated")
    try fail(1, "wear", store, saying: "countsWear")
    var options = NVMStoreOptions(media: .emulated)
    options.countsWear = true
    let opened = try NVMStore.open(path: store, options: options)
    let block = try opened.heap.allocate(byteCount: 40)
    for _ in 0..<1000 { try opened.region.persist(block, count: 8) }
    try opened.close()
    let map = path("map.svg")
    let text = try succeed("wear", store, "--svg", map)
    for word in ["1,00", "imbalance", "lines allocated   1"] {
      XCTAssert(text.contains(word), "\(text) lacks \(word)")
    }
    XCTAssert(try succeed("stat", store).contains("lines written"))
    let svg = try String(contentsOfFile: map, encoding: .utf8)
    XCTAssert(svg.hasPrefix("<svg") && svg.hasSuffix("</svg>\n"))
    XCTAssertEqual(svg.filter { $0 == "<" }.count, svg.filter { $0 == ">" }.count)
    // The hottest cell is drawn in the hottest colour, once beside the legend's.
    XCTAssertEqual(svg.components(separatedBy: "#7f0010").count - 1, 2)
    try fail(3, "wear", store, "--svg", path("missing/x.svg"), saying: "cannot be written")
    // A link to the store is the store.
    try FileManager.default.createSymbolicLink(atPath: path("link.svg"), withDestinationPath: store)
    for same in [store, path("link.svg"), store + ".wear"] {
      try fail(3, "wear", store, "--svg", same, saying: "the store and its counts")
    }
    try succeed("check", store)
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
