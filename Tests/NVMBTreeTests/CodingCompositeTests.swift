import NVMBTree
import XCTest

final class CodingCompositeTests: XCTestCase {
  private func before(_ a: String, _ b: String) -> Bool {
    Array(a.utf8).lexicographicallyPrecedes(Array(b.utf8))
  }
  private func same(_ a: String, _ b: String) -> Bool { Array(a.utf8) == Array(b.utf8) }

  func testFormsAndNames() {
    XCTAssertEqual(CompositeKey2<UInt32, UInt32>.durableKeyForm, .word)
    XCTAssertEqual(CompositeKey2<UInt32, Int64>.durableKeyForm, .bytes)
    XCTAssertEqual(CompositeKey2<UInt32, Int64>.fixedKeyWidth, 12)
    XCTAssertEqual(CompositeKey3<Bool, Int16, Float>.fixedKeyWidth, 7)
    XCTAssertEqual(CompositeKey3<Bool, Int16, Float>.durableKeyForm, .word)
    XCTAssertNil(CompositeKey2<UInt32, String>.fixedKeyWidth)
    XCTAssertEqual(CompositeKey2<UInt32, String>.durableTypeName, "(UInt32,String)")
    XCTAssertEqual(CompositeKey3<Int, Bool, [UInt8]>.durableTypeName, "(Int64,Bool,[UInt8])")
    XCTAssertEqual(encoded(CompositeKey2(UInt16(0x0102), "ab")), [1, 2, 0x61, 0x62])
    XCTAssertEqual(encoded(CompositeKey2("a\0", UInt8(9))), [0x61, 0, 0xFF, 0, 0, 9])
    XCTAssertEqual(CompositeKey2(UInt8(1), UInt16(2)).keyHead, 0x01_0002)
    let key = CompositeKey3("a", 2, true)
    XCTAssertTrue(key.first == "a" && key.second == 2 && key.third && key.values.1 == 2)
    XCTAssertEqual("\(key)", "(a, 2, true)")
  }

  func testWordsOfTwoAndThree() {
    var random = CodingRandom()
    let pairs = (0..<100).map { _ in
      CompositeKey2(Int32.random(in: -2...2, using: &random), UInt32.random(in: 0 ... .max, using: &random))
    }
    assertOrderLaw(pairs, seed: random.seed) { ($0.first, $0.second) < ($1.first, $1.second) }
    for key in pairs {
      let back = CompositeKey2<Int32, UInt32>(keyHead: key.keyHead)
      XCTAssertTrue(back?.first == key.first && back?.second == key.second, "\(key) seed \(random.seed)")
    }
    let triples = (0..<100).map { _ in
      CompositeKey3(
        Bool.random(using: &random), Int16.random(in: -3...3, using: &random),
        Int8.random(in: -128...127, using: &random))
    }
    assertOrderLaw(triples, seed: random.seed) {
      ($0.first ? 1 : 0, $0.second, $0.third) < ($1.first ? 1 : 0, $1.second, $1.third)
    }
    XCTAssertNil(CompositeKey3<Bool, Int16, Int8>(keyHead: 1 << 32))
    XCTAssertNil(CompositeKey3<Bool, Int16, Int8>(keyHead: 2 << 24))
  }

  func testFixedWidthsBeyondAWord() {
    var random = CodingRandom()
    let keys = (0..<120).map { _ in
      CompositeKey3(
        Int64.random(in: -1...1, using: &random), Int128.random(in: -1...1, using: &random),
        UInt8.random(in: 0...3, using: &random))
    }
    XCTAssertEqual(CompositeKey3<Int64, Int128, UInt8>.fixedKeyWidth, 25)
    assertOrderLaw(keys, seed: random.seed) {
      ($0.first, $0.second, $0.third) < ($1.first, $1.second, $1.third)
    }
  }

  func testVaryingFirst() {
    var random = CodingRandom()
    var keys = ["", "\0", "\0\0", "\0\u{1}", "a", "a\0", "a\0b", "aa"].flatMap { first in
      ["", "\0", "b", "\u{1}"].map { CompositeKey2(first, $0) }
    }
    for _ in 0..<120 { keys.append(CompositeKey2(random.string(upTo: 4), random.string(upTo: 4))) }
    assertOrderLaw(keys, seed: random.seed) {
      same($0.first, $1.first) ? before($0.second, $1.second) : before($0.first, $1.first)
    }
    for key in keys {
      let back = CompositeKey2<String, String>.decoded(encoded(key))
      XCTAssertTrue(back.map { same($0.first, key.first) && same($0.second, key.second) } ?? false, "\(key)")
    }
  }

  func testVaryingInTheMiddleAndNested() {
    var random = CodingRandom()
    let keys = (0..<150).map { _ in
      CompositeKey3(UInt8.random(in: 0...1, using: &random), random.bytes(upTo: 3), random.bytes(upTo: 3))
    }
    assertOrderLaw(keys, seed: random.seed) {
      if $0.first != $1.first { return $0.first < $1.first }
      if $0.second != $1.second { return $0.second.lexicographicallyPrecedes($1.second) }
      return $0.third.lexicographicallyPrecedes($1.third)
    }
    let nested = (0..<150).map { _ in
      CompositeKey2(
        CompositeKey2(random.bytes(upTo: 2), random.bytes(upTo: 2)), Int8.random(in: -1...1, using: &random))
    }
    assertOrderLaw(nested, seed: random.seed) { a, b in
      if a.first.first != b.first.first { return a.first.first.lexicographicallyPrecedes(b.first.first) }
      if a.first.second != b.first.second { return a.first.second.lexicographicallyPrecedes(b.first.second) }
      return a.second < b.second
    }
  }

  func testOrderIsThatOfTheEncodingForFloats() {
    let keys = [-Double.nan, -1, -0.0, 0.0, 1, .nan].flatMap { x in
      ["", "b"].map { CompositeKey2(x, $0) }
    }
    XCTAssertEqual(keys.shuffled().sorted(), keys)
    XCTAssertEqual(Set(keys).count, 12)
    XCTAssertTrue(Set(keys).contains(CompositeKey2(.nan, "b")))
    XCTAssertNotEqual(CompositeKey2(0.0, 1), CompositeKey2(-0.0, 1))
    XCTAssertLessThan(CompositeKey3("a", "", 1), CompositeKey3("a", "\0", 0))
  }

  func testBrokenEncodings() {
    typealias Text = CompositeKey2<String, String>
    for bytes: [UInt8] in [[], [0], [0x61], [0x61, 0], [0x61, 0, 1, 0, 0], [0x61, 0, 0xFF], [0xFF, 0, 0]] {
      XCTAssertNil(Text.decoded(bytes), "\(bytes)")
    }
    XCTAssertNotNil(Text.decoded([0, 0]))
    XCTAssertNil(Text.decoded([0, 0, 0xFF]), "the second is not UTF-8")
    typealias Number = CompositeKey2<String, UInt16>
    XCTAssertNil(Number.decoded([0, 0, 1]))
    XCTAssertNil(Number.decoded([0, 0, 1, 2, 3]))
    XCTAssertNotNil(Number.decoded([0, 0, 1, 2]))
    typealias Fixed = CompositeKey2<UInt64, UInt64>
    XCTAssertNil(Fixed.decoded([UInt8](repeating: 0, count: 15)))
    XCTAssertNil(Fixed.decoded([UInt8](repeating: 0, count: 17)))
    XCTAssertNil(CompositeKey2<Bool, Bool>.decoded([0, 0]))
    XCTAssertNil(CompositeKey2<Bool, UInt64>.decoded([2, 0, 0, 0, 0, 0, 0, 0, 0]))
  }

  func testRandomBytesNeverTrap() {
    var random = CodingRandom()
    for _ in 0..<20_000 {
      let bytes = random.bytes(upTo: 12)
      // What decodes must encode to the same bytes: one encoding per key.
      if let key = CompositeKey3<String, [UInt8], UInt16>.decoded(bytes) {
        XCTAssertEqual(encoded(key), bytes, "seed \(random.seed)")
      }
      if let key = CompositeKey2<[UInt8], String>.decoded(bytes) {
        XCTAssertEqual(encoded(key), bytes, "seed \(random.seed)")
      }
    }
  }
}
