import Foundation
import NVMBTree
import NVMFoundation
import NVMRegion
import XCTest

private struct Person: DurableCodableValue, Equatable {
  var name: String
  var born: Date?
  var weight: Double
}

private struct Unencodable: DurableCodableValue {
  struct Refusal: Error {}
  init() {}
  init(from decoder: any Decoder) throws { throw Refusal() }
  func encode(to encoder: any Encoder) throws { throw Refusal() }
}

final class FoundationCodingTests: XCTestCase {
  private let seed =
    ProcessInfo.processInfo.environment["NVM_SEED"].flatMap { UInt64($0) } ?? .random(in: 0 ... .max)

  private struct Generator: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return (state ^ (state >> 29)) &* 0xBF58_476D_1CE4_E5B9
    }
  }

  private func bytes<K: DurableKey>(_ key: K) -> [UInt8] { key.withKeyBytes { [UInt8]($0) } }
  private func stored<V: DurableValue>(_ value: V) throws -> [UInt8] {
    try value.withValueBytes { [UInt8]($0) }
  }
  private func key<K: DurableKey>(_ bytes: [UInt8]) -> K? { bytes.withUnsafeBytes { K(keyBytes: $0) } }
  private func value<V: DurableValue>(_ bytes: [UInt8]) -> V? { bytes.withUnsafeBytes { V(valueBytes: $0) } }

  private func assertLaw<K: DurableKey & Equatable>(_ keys: [K], isOrderedBefore: (K, K) -> Bool) {
    for a in keys {
      XCTAssertEqual(key(bytes(a)), a, "seed \(seed)")
      for b in keys {
        let (before, codesBefore) = (isOrderedBefore(a, b), bytes(a).lexicographicallyPrecedes(bytes(b)))
        XCTAssertEqual(before, codesBefore, "\(a) \(b) seed \(seed)")
        XCTAssertEqual(a.compareKey(to: b) < 0, before, "\(a) \(b) seed \(seed)")
        if before { XCTAssertLessThanOrEqual(a.keyHead, b.keyHead, "\(a) \(b) seed \(seed)") }
        if a.keyHead == b.keyHead && a != b {
          XCTAssertTrue(K.durableKeyForm == .bytes && bytes(a).count >= 8 && bytes(b).count >= 8)
        }
      }
    }
  }

  func testData() throws {
    var random = Generator(state: seed)
    var keys: [Data] = [
      Data(), Data([0]), Data([0, 0]), Data(repeating: 1, count: 7), Data(repeating: 1, count: 9),
    ]
    for _ in 0..<60 {
      keys.append(
        Data(
          (0..<Int.random(in: 0...12, using: &random)).map { _ in [0, 1, 0xFF].randomElement(using: &random)!
          }))
    }
    // A slice has indices of its own.
    keys.append(Data([9, 9, 1, 2, 3])[2...])
    assertLaw(keys) { $0.lexicographicallyPrecedes($1) }
    for data in keys { XCTAssertEqual(value(try stored(data)), data) }
    XCTAssertEqual(Data.durableTypeName, [UInt8].durableTypeName)
    XCTAssertEqual(Data([9, 9, 1, 2])[2...].keyHead, [UInt8]([1, 2]).keyHead)
  }

  func testUUID() throws {
    var random = Generator(state: seed)
    let keys = (0..<60).map { _ in
      UUID(uuid: unsafeBitCast((UInt64.random(in: 0...2, using: &random), random.next()), to: uuid_t.self))
    }
    assertLaw(keys) { $0.uuidString < $1.uuidString }
    for uuid in keys { XCTAssertEqual(value(try stored(uuid)), uuid) }
    XCTAssertNil(key([UInt8](repeating: 0, count: 15)) as UUID?)
    XCTAssertNil(value([UInt8](repeating: 0, count: 17)) as UUID?)
    XCTAssertEqual(CompositeKey2<UUID, Date>.fixedKeyWidth, 24)
  }

  func testDate() {
    let now = Date()
    let keys = [
      now, now + 1e-6, now - 1e9, .distantPast, .distantFuture, Date(timeIntervalSinceReferenceDate: 0),
    ]
    assertLaw(keys, isOrderedBefore: <)
    for date in keys { XCTAssertEqual(Date(valueWord: date.valueWord), date) }
    XCTAssertEqual(Date.durableTypeName, "Date")
  }

  func testCodableValues() throws {
    let ada = Person(name: "Ada \"\u{0}😀", born: Date(), weight: 0.1 + 0.2)
    XCTAssertEqual(value(try stored(ada)), ada)
    XCTAssertEqual(try stored(ada), try stored(ada))
    let endless = Person(name: "", born: nil, weight: .infinity)
    XCTAssertEqual(value(try stored(endless)), endless)
    XCTAssertEqual(Person.durableTypeName, "JSON Person")
    XCTAssertNil(value(Array("{\"name\":1}".utf8)) as Person?)
    XCTAssertNil(value([]) as Person?)
    XCTAssertNil(value([0xFF, 0xFE, 0x00]) as Person?)
    let plain = Person(name: "b", born: nil, weight: 1)
    XCTAssertEqual(String(decoding: try stored(plain), as: UTF8.self), #"{"name":"b","weight":1}"#)
  }

  func testTheWrapper() throws {
    let scores = DurableCodable(["b": 1, "a": 2])
    XCTAssertEqual(String(decoding: try stored(scores), as: UTF8.self), #"{"a":2,"b":1}"#)
    XCTAssertEqual(value(try stored(scores)), scores)
    XCTAssertEqual(value(try stored(DurableCodable(7))), DurableCodable(7))
    let absent = DurableCodable<Int?>(nil)
    XCTAssertEqual(value(try stored(absent)), absent)
    XCTAssertEqual(DurableCodable<[String: Int]>.durableTypeName, "JSON Dictionary<String, Int>")
  }

  private func assertRefused<V: DurableValue>(_ value: V, line: UInt = #line) {
    var calls = 0
    XCTAssertThrowsError(try value.withValueBytes { _ in calls += 1 }, line: line) { error in
      XCTAssertEqual((error as? NVMError)?.code, .invalidArgument, line: line)
      XCTAssertTrue((error as? NVMError)?.underlying is Unencodable.Refusal, line: line)
    }
    XCTAssertEqual(calls, 0, line: line)
  }

  func testAValueThatDoesNotEncodeIsAnError() {
    assertRefused(Unencodable())
    assertRefused(DurableCodable(Unencodable()))
  }
}
