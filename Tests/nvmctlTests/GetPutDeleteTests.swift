import XCTest

final class GetTests: ToolTestCase {
  func testGetsWhatWasPut() throws {
    try succeed("create", store)
    try succeed("put", store, "ada", "Lovelace")
    XCTAssertEqual(try succeed("get", store, "ada"), "Lovelace\n")
    try fail(1, "get", store, "bob", saying: "no key \"bob\"")
    try fail(1, "get", store, "ada", "--tree", "other", saying: "no tree \"other\"", "\"main\"")
    try fail(1, "get", path("none"), "ada", saying: path("none"), "Create it")
    try fail(2, "get", store, saying: "key")
  }

  func testEveryType() throws {
    let examples = [
      ("String", "a\u{e9} b"), ("Bytes", "00ff10"), ("Int8", "-128"), ("Int64", "-9223372036854775808"),
      ("UInt64", "18446744073709551615"), ("Int128", "-170141183460469231731687303715884105728"),
      ("Bool", "true"),
      ("Double", "0.1"), ("Float", "-inf"), ("UUID", "61EF2EF3-F56A-4A88-A6C9-F5FDD33178C9"),
      ("Date", "2026-11-22T10:20:30.500Z"),
    ]
    for (type, text) in examples {
      try succeed("create", store, "--tree", type, "--key-type", type, "--value-type", type)
      try succeed("put", store, "--tree", type, "--", text, text)
      XCTAssertEqual(try succeed("get", store, "--tree", type, "--", text), text + "\n", type)
    }
    try succeed("create", store, "--tree", "pair", "--key-type", "(String,Int)")
    try succeed("put", store, "--tree", "pair", #"["a\tb",-7]"#, "seven")
    XCTAssertEqual(try succeed("scan", store, "--tree", "pair"), #"["a\\tb",-7]"# + "\tseven\n")
    XCTAssertEqual(try succeed("get", store, "--tree", "pair", #"[ "a\tb", -7 ]"#), "seven\n")
    try fail(2, "get", store, "--tree", "pair", "a", saying: "JSON array")
    try fail(2, "get", store, "--tree", "Int8", "300", saying: "\"300\" is no value of type Int8")
    try succeed("check", store)
  }
}

final class PutTests: ToolTestCase {
  func testReplacesAndReadsStandardInput() throws {
    try succeed("create", store, "--value-type", "Int")
    try succeed("put", store, "n", "1")
    try succeed("put", store, "n", "2")
    XCTAssertEqual(try succeed("get", store, "n"), "2\n")
    try succeed("put", store, "m", "-", input: "33\n")
    XCTAssertEqual(try succeed("get", store, "m"), "33\n")
    try fail(2, "put", store, "n", "two", saying: "no value of type Int64")
    XCTAssertEqual(try succeed("list", store), "main\tString\tInt64\t2\n")
  }
}

final class DeleteTests: ToolTestCase {
  func testRemovesKeysAndTrees() throws {
    try succeed("create", store)
    try succeed("put", store, "a", "1")
    try succeed("delete", store, "a")
    try fail(1, "delete", store, "a", saying: "no key")
    try succeed("create", store, "--tree", "t")
    try succeed("delete", store, "--tree", "t", "--whole-tree")
    XCTAssertEqual(try succeed("list", store), "main\tString\tString\t0\n")
    try fail(1, "delete", store, "--tree", "t", "--whole-tree", saying: "no tree")
    try fail(2, "delete", store, saying: "--whole-tree")
    try fail(2, "delete", store, "a", "--whole-tree", saying: "either")
    try succeed("check", store)
  }
}
