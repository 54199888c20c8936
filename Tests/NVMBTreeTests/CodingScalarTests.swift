import NVMBTree
import XCTest

final class CodingScalarTests: XCTestCase {
  private func checkInteger<T>(_ type: T.Type, name: String)
  where T: FixedWidthInteger & DurableKey & DurableValue {
    var random = CodingRandom()
    var keys: [T] = [.min, .min + 1, 0, 1, T.max / 2, .max - 1, .max, T(truncatingIfNeeded: -1)]
    for shift in 0..<T.bitWidth { keys.append(T(truncatingIfNeeded: 1) << shift) }
    for _ in 0..<60 { keys.append(.random(in: .min ... .max, using: &random)) }
    assertOrderLaw(keys, seed: random.seed, isOrderedBefore: <)
    XCTAssertEqual(T.durableTypeName, name)
    XCTAssertEqual(T.fixedKeyWidth, T.bitWidth / 8)
    for key in keys {
      XCTAssertEqual(T.decoded(encoded(key)), key)
      XCTAssertEqual(try T.decodedValue(encodedValue(key)), key)
      if T.durableKeyForm == .word {
        XCTAssertEqual(T(keyHead: key.keyHead), key)
        XCTAssertEqual(T(valueWord: key.valueWord), key)
      }
    }
    XCTAssertNil(T.decoded([]))
    XCTAssertNil(T.decoded([1, 2, 3]))
    XCTAssertNil(T.decodedValue([UInt8](repeating: 0, count: 9)))
    if T.bitWidth < 64 {
      let above: UInt64 = 1 << UInt64(T.bitWidth)
      XCTAssertNil(T(keyHead: above))
      XCTAssertNil(T(valueWord: above))
      XCTAssertNil(T(valueWord: .max))
    }
  }

  func testIntegers() {
    checkInteger(Int.self, name: "Int64")
    checkInteger(Int8.self, name: "Int8")
    checkInteger(Int16.self, name: "Int16")
    checkInteger(Int32.self, name: "Int32")
    checkInteger(Int64.self, name: "Int64")
    checkInteger(UInt.self, name: "UInt64")
    checkInteger(UInt8.self, name: "UInt8")
    checkInteger(UInt16.self, name: "UInt16")
    checkInteger(UInt32.self, name: "UInt32")
    checkInteger(UInt64.self, name: "UInt64")
    checkInteger(Int128.self, name: "Int128")
    checkInteger(UInt128.self, name: "UInt128")
  }

  func testEncodingsThatAreOnTheMediumDoNotChange() {
    XCTAssertEqual(Int64(-1).keyHead, 0x7FFF_FFFF_FFFF_FFFF)
    XCTAssertEqual(Int8(-128).keyHead, 0)
    XCTAssertEqual(Int8(127).keyHead, 0xFF)
    XCTAssertEqual(Int16(-1).valueWord, 0xFFFF)
    XCTAssertEqual(UInt32(7).keyHead, 7)
    XCTAssertEqual(Double(0).keyHead, 1 << 63)
    XCTAssertEqual(Float(-0.0).keyHead, 0x7FFF_FFFF)
    XCTAssertEqual("ab".keyHead, 0x6162_0000_0000_0002)
    XCTAssertEqual("abcdefgh".keyHead, 0x6162_6364_6566_6708)
    XCTAssertEqual(encoded(Int128(1)), [0x80] + [UInt8](repeating: 0, count: 14) + [1])
  }

  func testBool() {
    assertOrderLaw([false, true], seed: 0) { !$0 && $1 }
    XCTAssertEqual(Bool(keyHead: 1), true)
    XCTAssertEqual(Bool(valueWord: 0), false)
    XCTAssertNil(Bool(keyHead: 2))
    XCTAssertNil(Bool(valueWord: 256))
  }

  func testDouble() {
    var random = CodingRandom()
    let nan = Double.nan
    var keys: [Double] = [
      -nan, Double(nan: 7, signaling: false), nan, -.infinity, .infinity, -.greatestFiniteMagnitude,
      .greatestFiniteMagnitude, -1, 1, -.leastNonzeroMagnitude, .leastNonzeroMagnitude, -0.0, 0.0, 0.1,
      Double(bitPattern: .max), Double(bitPattern: 0x7FF0_0000_0000_0001),
    ]
    for _ in 0..<100 { keys.append(Double(bitPattern: random.next())) }
    assertOrderLaw(keys, seed: random.seed) {
      $0.isTotallyOrdered(belowOrEqualTo: $1) && $0.bitPattern != $1.bitPattern
    }
    for key in keys {
      XCTAssertEqual(Double(keyHead: key.keyHead)?.bitPattern, key.bitPattern, "seed \(random.seed)")
      XCTAssertEqual(Double(valueWord: key.valueWord)?.bitPattern, key.bitPattern)
    }
    XCTAssertLessThan((-nan).keyHead, (-Double.infinity).keyHead)
    XCTAssertLessThan(Double.infinity.keyHead, nan.keyHead)
    XCTAssertLessThan((-0.0).keyHead, 0.0.keyHead)
  }

  func testFloat() {
    var random = CodingRandom()
    var keys: [Float] = [-.nan, .nan, -.infinity, .infinity, -1, 1, -0.0, 0, .leastNonzeroMagnitude]
    for _ in 0..<100 { keys.append(Float(bitPattern: UInt32(truncatingIfNeeded: random.next()))) }
    assertOrderLaw(keys, seed: random.seed) {
      $0.isTotallyOrdered(belowOrEqualTo: $1) && $0.bitPattern != $1.bitPattern
    }
    for key in keys {
      XCTAssertEqual(Float(keyHead: key.keyHead)?.bitPattern, key.bitPattern)
      XCTAssertEqual(Float(valueWord: key.valueWord)?.bitPattern, key.bitPattern)
    }
    XCTAssertNil(Float(keyHead: 1 << 32))
    XCTAssertNil(Float(valueWord: 1 << 32))
  }

  private enum Kind: UInt8, DurableKey, DurableValue { case a = 1, b, c }
  private enum Name: String, DurableKey, DurableValue { case ada, grace, barbara }

  func testEnumerationsAreStoredAsTheirRawValues() throws {
    assertOrderLaw([Kind.a, .b, .c], seed: 0) { $0.rawValue < $1.rawValue }
    assertOrderLaw([Name.ada, .grace, .barbara], seed: 0) { $0.rawValue < $1.rawValue }
    XCTAssertEqual(Kind.durableTypeName, "UInt8")
    XCTAssertEqual(Name.durableKeyForm, .bytes)
    XCTAssertEqual(Kind(valueWord: 3), .c)
    XCTAssertNil(Kind(valueWord: 4))
    XCTAssertNil(Kind(keyHead: 0))
    XCTAssertNil(Name.decodedValue(Array("linus".utf8)))
    XCTAssertEqual(try Name.decodedValue(encodedValue(Name.grace)), .grace)
  }

  private struct UserID: DurableWordKey, Equatable {
    var number: UInt64
    static let durableTypeName = "UserID"
    init(_ number: UInt64) { self.number = number }
    var keyHead: UInt64 { number }
    init?(keyHead: UInt64) { number = keyHead }
  }

  func testAKeyTypeOfTheUser() {
    assertOrderLaw([UserID(0), UserID(256), UserID(.max)], seed: 0) { $0.number < $1.number }
    XCTAssertEqual(UserID.fixedKeyWidth, 8)
  }

  private func assertValueRoundTrip<V: DurableValue & Equatable>(_ value: V) throws {
    XCTAssertEqual(try V.decodedValue(encodedValue(value)), value)
  }

  func testOptionalValues() throws {
    for value: Int? in [nil, 0, -1, .max] { try assertValueRoundTrip(value) }
    for value: String? in [nil, "", "a longer string, to be on the heap"] { try assertValueRoundTrip(value) }
    try assertValueRoundTrip(Int??.some(nil))
    XCTAssertEqual(Int??.durableTypeName, "Int64??")
    XCTAssertTrue(Int?.decodedValue([]) == .none, "not even nil")
    XCTAssertTrue(Int?.decodedValue([0, 0]) == .none, "not even nil")
    XCTAssertTrue(Int?.decodedValue([1]) == .none, "not even nil")
    XCTAssertTrue(Int?.decodedValue([2]) == .none, "not even nil")
    XCTAssertTrue(String?.decodedValue([1, 0xFF]) == .none, "not even nil")
  }
}
