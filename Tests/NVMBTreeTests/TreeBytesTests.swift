import NVMRegion
import XCTest

@testable import NVMBTree

/// Walks over the bytes of entries, against the decoded ones.
final class TreeBytesTests: XCTestCase {
  private func bytes(_ span: RawSpan) -> [UInt8] { span.withUnsafeBytes { [UInt8]($0) } }

  /// Walks a range both ways and compares the bytes with those of what a loop gives.
  private func check<Key: DurableKey, Value: DurableValue>(
    _ range: DurableRange<Key, Value>, count: Int, _ context: String,
    key: (Key) -> [UInt8], value: (Value) -> [UInt8]
  ) throws {
    for range in [range, range.reversed()] {
      var wanted = range.map { (key($0.key), value($0.value)) }.makeIterator()
      var n = 0
      try range.forEachBytes { k, v in
        let next = try XCTUnwrap(wanted.next())
        XCTAssertEqual(bytes(k), next.0, context)
        XCTAssertEqual(bytes(v), next.1, context)
        n += 1
        return true
      }
      XCTAssertNil(wanted.next(), context)
      XCTAssertEqual(n, count, context)
    }
  }

  func testEveryFormOfEntry() throws {
    for (name, options) in nodeSizes {
      var random = SeededGenerator(seed: 5)
      let heap = try makeHeap()
      let words = try DurableBTree<Int, Int>.create(in: heap, number: 1, options: options)
      let texts = try DurableBTree<String, String>.create(in: heap, number: 2, options: options)
      let values = try DurableBTree<UInt64, [UInt8]>.create(in: heap, number: 3, options: options)
      let counts = try DurableBTree<String, UInt64>.create(in: heap, number: 4, options: options)
      for i in 0..<300 {
        // Of all lengths around those that stand in a slot, half of them with ends in common.
        let text =
          String(repeating: i % 2 == 0 ? "a" : "b", count: Int.random(in: 0..<20, using: &random))
          + "\(i)"
        let value = String(repeating: "v", count: Int.random(in: 0..<12, using: &random))
        try words.setValue(-i, forKey: i * 7 - 1000)
        try texts.setValue(value, forKey: text)
        try values.setValue([UInt8](value.utf8), forKey: UInt64(i))
        try counts.setValue(UInt64(i), forKey: text)
      }
      func big(_ i: UInt64) -> [UInt8] { withUnsafeBytes(of: i.bigEndian) { [UInt8]($0) } }
      func little(_ i: UInt64) -> [UInt8] { withUnsafeBytes(of: i.littleEndian) { [UInt8]($0) } }
      try check(words[...], count: 300, name, key: { big($0.keyHead) }, value: { little($0.valueWord) })
      try check(words[0..<70], count: 10, name, key: { big($0.keyHead) }, value: { little($0.valueWord) })
      try check(texts[...], count: 300, name, key: { [UInt8]($0.utf8) }, value: { [UInt8]($0.utf8) })
      try check(values[...], count: 300, name, key: { big($0) }, value: { $0 })
      try check(counts[...], count: 300, name, key: { [UInt8]($0.utf8) }, value: { little($0) })
      try check(
        texts.range(from: "b", to: "bbbbbbbbbb"),
        count: texts.range(from: "b", to: "bbbbbbbbbb").count { _ in true },
        name, key: { [UInt8]($0.utf8) }, value: { [UInt8]($0.utf8) })
    }
  }

  func testEndsWhereToldAndThrows() throws {
    let tree = try DurableBTree<Int, String>.create(in: makeHeap(), number: 1)
    for i in 0..<100 { try tree.setValue("value number \(i)", forKey: i) }
    var seen = 0
    try tree[...].forEachBytes { _, _ in
      seen += 1
      return seen < 40
    }
    XCTAssertEqual(seen, 40)
    struct Stop: Error {}
    XCTAssertThrowsError(
      try tree[10...].forEachBytes { _, _ in
        seen += 1
        throw Stop()
      }
    ) { XCTAssertTrue($0 is Stop) }
    XCTAssertEqual(seen, 41)
    // Neither holds what is replaced later.
    for i in 0..<100 { try tree.setValue("another number \(i)", forKey: i) }
    tree.trim()
    XCTAssertEqual(tree.statistics.waitingForReaders, 0)
  }

  /// What `body` holds stays as it is, also when it removes it itself; what comes later is as it is then.
  func testBodyChangesTheTree() throws {
    let tree = try DurableBTree<Int, String>.create(in: makeHeap(), number: 1)
    for i in 0..<200 { try tree.setValue(String(repeating: "x", count: 50 + i), forKey: i) }
    var n = 0
    try tree[...].forEachBytes { key, value in
      XCTAssertEqual(try tree.removeValue(forKey: n)?.count, 50 + n)
      for i in 0..<4 { try tree.setValue(String(repeating: "y", count: 50 + n), forKey: 1000 + i) }
      XCTAssertEqual(bytes(value), [UInt8](repeating: 120, count: 50 + n))
      n += 1
      return n < 200
    }
    XCTAssertEqual(n, 200)
    XCTAssertEqual(tree.count, 4)
    assertClean(try tree.verify())
  }
}
