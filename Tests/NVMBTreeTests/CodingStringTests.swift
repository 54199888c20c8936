import NVMBTree
import XCTest

final class CodingStringTests: XCTestCase {
  func testStringsOrderByUTF8() {
    var random = CodingRandom()
    var keys = [
      "", "a", "a\0", "a\0\0", "a\0b", "a\u{1}", "b", "é", "e\u{301}", "abcdefg", "abcdefg\0", "abcdefgh",
      "abcdefgi", "abcdefghi", "abcdefgh\0", "\u{FFFF}", "😀", "\0", String(repeating: "x", count: 5000),
      String(repeating: "x", count: 5000) + "\0", String(repeating: "x", count: 4999) + "y",
    ]
    for _ in 0..<120 { keys.append(random.string(upTo: 12)) }
    assertOrderLaw(keys, seed: random.seed) { Array($0.utf8).lexicographicallyPrecedes(Array($1.utf8)) }
    for key in keys {
      XCTAssertEqual(
        String.decoded(encoded(key)).map { Array($0.utf8) }, Array(key.utf8), "seed \(random.seed)")
      XCTAssertEqual(try String.decodedValue(encodedValue(key)).map { Array($0.utf8) }, Array(key.utf8))
    }
  }

  func testEqualStringsMayBeTwoKeys() {
    XCTAssertEqual("é", "e\u{301}")
    XCTAssertNotEqual("é".keyHead, "e\u{301}".keyHead)
    XCTAssertNotEqual("é".compareKey(to: "e\u{301}"), 0)
  }

  func testBytesThatAreNotUTF8AreNoString() {
    let broken: [[UInt8]] = [
      [0xFF], [0x61, 0x80], [0xC0, 0x80], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80], [0xE2, 0x82],
      [0xF0, 0x9F, 0x98],  // repaired to as many bytes
      Array(repeating: 0x61, count: 100) + [0xC3],
    ]
    for bytes in broken {
      XCTAssertNil(String.decoded(bytes), "\(bytes)")
      XCTAssertNil(String.decodedValue(bytes), "\(bytes)")
      if bytes.count < 8 { XCTAssertNil(String(keyHead: bytes.withUnsafeBytes { KeyHead.ofBytes($0) })) }
    }
  }

  func testByteArrays() throws {
    var random = CodingRandom()
    var keys: [[UInt8]] = [
      [], [0], [0, 0], [0xFF], [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7, 0],
      [UInt8](repeating: 0, count: 8),
      [UInt8](repeating: 0, count: 9), [UInt8](repeating: 0xFF, count: 65536),
    ]
    for _ in 0..<150 { keys.append(random.bytes(upTo: 12)) }
    assertOrderLaw(keys, seed: random.seed) { $0.lexicographicallyPrecedes($1) }
    for key in keys {
      XCTAssertEqual(try [UInt8].decodedValue(encodedValue(key)), key)
      XCTAssertEqual([UInt8].decoded(encoded(key)), key)
    }
  }

  func testTheErrorOfTheBodyComesThrough() {
    struct Stop: Error {}
    XCTAssertThrowsError(try "abc".withKeyBytes { (_) throws(Stop) in throw Stop() }) {
      XCTAssertTrue($0 is Stop)
    }
    XCTAssertThrowsError(try 7.withKeyBytes { (_) throws(Stop) in throw Stop() }) {
      XCTAssertTrue($0 is Stop)
    }
    XCTAssertThrowsError(try CompositeKey2("a", "b").withKeyBytes { (_) throws(Stop) in throw Stop() }) {
      XCTAssertTrue($0 is Stop)
    }
  }
}
