import Foundation
import XCTest

final class CheckTests: ToolTestCase {
  func testWholeAndDamagedStores() throws {
    try succeed("create", store, "--size", "2M")
    try succeed(
      "load", store, "-", input: (0..<500).map { "key number \($0)\tvalue number \($0)\n" }.joined())
    XCTAssert(try succeed("check", store).contains("is whole: 1 tree, 500 entries"))
    XCTAssert(try succeed("check", store, "--recover").contains("is whole"))
    // A byte of a stored value, in its place behind the journal.
    var bytes = try Data(contentsOf: URL(fileURLWithPath: store))
    let place = try XCTUnwrap(bytes.range(of: Data("value number 77".utf8), options: .backwards))
    bytes[place.lowerBound] ^= 1
    try bytes.write(to: URL(fileURLWithPath: store))
    let result = try run("check", store)
    XCTAssertEqual(result.status, 4)
    XCTAssert(result.output.contains("record at offset"), result.output)
    XCTAssert(result.errors.contains("1 problem found"), result.errors)
    // Reading meets it too, and rather says so than print what is wrong.
    try fail(4, "get", store, "key number 77", saying: "damaged")
    for command in ["dump", "scan"] {
      let result = try run(command, store)
      XCTAssertEqual(result.status, 4, command)
      XCTAssertFalse(result.output.contains("key number 77"), command)
    }
    let rescued = try run("dump", store, "--salvage")
    XCTAssertEqual(rescued.status, 4)
    XCTAssertEqual(rescued.output.split(separator: "\n").count, 499)
    XCTAssertFalse(rescued.output.contains("key number 77\t"))
    XCTAssert(rescued.errors.contains("1 damaged place passed over"), rescued.errors)
    try succeed("create", path("rescued.nvm"), "--size", "2M")
    try succeed("load", path("rescued.nvm"), "-", input: rescued.output)
    XCTAssert(try run("list", store, "--salvage").output.hasPrefix("main\tString\tString\t499"))
    // The catalogue's name among the roots: nothing opens, everything is found.
    let root = try XCTUnwrap(bytes.range(of: Data("nvm.catalogue".utf8), options: .backwards))
    bytes[root.lowerBound] ^= 1
    try bytes.write(to: URL(fileURLWithPath: store))
    try fail(4, "dump", store, saying: "damaged")
    let found = try run("dump", store, "--salvage")
    XCTAssertEqual(found.status, 4)
    XCTAssertEqual(found.output, rescued.output)
    // Cut off.
    try bytes.prefix(1 << 20).write(to: URL(fileURLWithPath: store))
    try fail(4, "check", store, saying: store, "its end is missing")
    try Data("not a store".utf8).write(to: URL(fileURLWithPath: store))
    try fail(3, "check", store, saying: store, "not a swift-nvm file")
  }
}
