import Foundation
import XCTest

final class CreateTests: ToolTestCase {
  func testMakesStoresAndTrees() throws {
    try succeed("create", store, "--size", "8M")
    let size = try FileManager.default.attributesOfItem(atPath: store)[.size] as? Int
    // A journal of the same size comes on top.
    XCTAssertEqual(size, 16 << 20)
    try succeed("create", store, "--tree", "visits", "--key-type", "(String, Int)", "--value-type", "UInt32")
    try succeed(
      "create", store, "--tree", "deep", "--key-type", "(int,(uuid,date),bool)", "--value-type", "bytes")
    XCTAssertEqual(
      try succeed("list", store),
      """
      deep\t(Int64,(UUID,Date),Bool)\t[UInt8]\t0
      main\tString\tString\t0
      visits\t(String,Int64)\tUInt32\t0

      """)
  }

  func testRefuses() throws {
    try fail(2, "create", store, "--key-type", "Strong", saying: "\"Strong\" is no key type")
    try fail(2, "create", store, "--key-type", "(Int,Int,Int,Int)", saying: "no key type")
    try fail(2, "create", store, "--value-type", "(Int,Int)", saying: "no value type")
    try fail(2, "create", store, "--size", "many", saying: "--size")
    XCTAssertFalse(FileManager.default.fileExists(atPath: store))
    try succeed("create", store)
    try fail(3, "create", store, saying: store, "already")
    try fail(1, "create", path("no/such"), saying: "directory", "does not exist")
    try fail(3, "create", directory, saying: "directory")
  }
}
