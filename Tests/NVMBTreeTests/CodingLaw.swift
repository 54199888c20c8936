import Foundation
import NVMBTree
import XCTest

/// A seeded generator: the same seed, the same run. `NVM_SEED=n` repeats a run.
struct CodingRandom: RandomNumberGenerator {
  let seed: UInt64
  private var state: UInt64

  init() {
    seed = ProcessInfo.processInfo.environment["NVM_SEED"].flatMap { UInt64($0) } ?? .random(in: 0 ... .max)
    state = seed
  }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  /// Bytes of few values, so that common prefixes, zeros and 0xFF come up often.
  mutating func bytes(upTo limit: Int) -> [UInt8] {
    let alphabet: [UInt8] = [0, 0, 1, 0x61, 0x62, 0xFE, 0xFF, 0xFF]
    return (0..<Int.random(in: 0...limit, using: &self)).map { _ in alphabet.randomElement(using: &self)! }
  }

  /// Strings of scalars of every UTF-8 length, U+0000 among them.
  mutating func string(upTo limit: Int) -> String {
    let alphabet: [Unicode.Scalar] = ["\0", "\0", "\u{1}", "a", "b", "é", "e", "\u{301}", "\u{FFFF}", "😀"]
    var scalars = String.UnicodeScalarView()
    for _ in 0..<Int.random(in: 0...limit, using: &self) {
      scalars.append(alphabet.randomElement(using: &self)!)
    }
    return String(scalars)
  }
}

func encoded<K: DurableKey>(_ key: K) -> [UInt8] { key.withKeyBytes { [UInt8]($0) } }
func encodedValue<V: DurableValue>(_ value: V) throws -> [UInt8] { try value.withValueBytes { [UInt8]($0) } }

extension DurableKey {
  static func decoded(_ bytes: [UInt8]) -> Self? { bytes.withUnsafeBytes { Self(keyBytes: $0) } }
}
extension DurableValue {
  static func decodedValue(_ bytes: [UInt8]) -> Self? { bytes.withUnsafeBytes { Self(valueBytes: $0) } }
}

/// Holds every pair of `keys` to the order law and every key to its round trips.
func assertOrderLaw<K: DurableKey>(
  _ keys: [K], seed: UInt64, file: StaticString = #filePath, line: UInt = #line,
  isOrderedBefore: (K, K) -> Bool
) {
  let codes = keys.map { encoded($0) }
  for (key, code) in zip(keys, codes) {
    let note = "\(K.self) \(key) seed \(seed)"
    let head = key.keyHead
    if K.durableKeyForm == .word {
      XCTAssertEqual(code, withUnsafeBytes(of: head.bigEndian) { [UInt8]($0) }, note, file: file, line: line)
      XCTAssertEqual(K(keyHead: head).map { encoded($0) }, code, note, file: file, line: line)
      let width = K.fixedKeyWidth ?? 8
      XCTAssertTrue(width == 8 || head < 1 << (8 * UInt64(width)), note, file: file, line: line)
    } else {
      XCTAssertEqual(head, code.withUnsafeBytes { KeyHead.ofBytes($0) }, note, file: file, line: line)
      XCTAssertTrue(KeyHead.isValid(head), note, file: file, line: line)
      XCTAssertEqual(KeyHead.isWhole(head), code.count < 8, note, file: file, line: line)
      XCTAssertEqual(
        K(keyHead: head).map { encoded($0) }, code.count < 8 ? code : nil, note, file: file, line: line)
      if let width = K.fixedKeyWidth { XCTAssertEqual(code.count, width, note, file: file, line: line) }
    }
    XCTAssertEqual(K.decoded(code).map { encoded($0) }, code, note, file: file, line: line)
  }
  for i in keys.indices {
    for j in keys.indices {
      let (a, b) = (keys[i], keys[j])
      let before = isOrderedBefore(a, b)
      let bytesBefore = codes[i].lexicographicallyPrecedes(codes[j])
      let order = a.compareKey(to: b)
      let (headA, headB) = (a.keyHead, b.keyHead)
      let long = K.durableKeyForm == .bytes && codes[i].count >= 8 && codes[j].count >= 8
      let headsFit =
        headA == headB ? codes[i] == codes[j] || long : (headA < headB) == bytesBefore
      if before != bytesBefore || (order < 0) != before || (order == 0) != (codes[i] == codes[j]) || !headsFit
      {
        XCTFail(
          "\(K.self): \(a) and \(b): before \(before), bytes \(codes[i]) \(codes[j]), compare \(order), "
            + "heads \(headA) \(headB); seed \(seed)", file: file, line: line)
        return
      }
    }
  }
}
