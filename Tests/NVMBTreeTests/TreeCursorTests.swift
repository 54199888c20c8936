import NVMRegion
import XCTest

@testable import NVMBTree

/// Cursors against a sorted array.
final class TreeCursorTests: XCTestCase {
  func testAgainstASortedArray() throws {
    for (name, options) in nodeSizes {
      var random = SeededGenerator(seed: 11)
      let tree = try DurableBTree<Int, Int>.create(in: makeHeap(), number: 1, options: options)
      let keys = Set((0..<400).map { _ in Int.random(in: 0..<2000, using: &random) }).sorted()
      for key in keys.shuffled(using: &random) { try tree.setValue(key * 2, forKey: key) }
      let cursor = tree.makeCursor()
      // -1 before the first, count behind the last.
      var at = -1
      for step in 0..<5000 {
        let entry: (key: Int, value: Int)?
        let sought = Int.random(in: -5..<2005, using: &random)
        switch Int.random(in: 0..<20, using: &random) {
        case 0:
          entry = try cursor.seek(to: sought)
          at = keys.firstIndex { $0 >= sought } ?? keys.count
        case 1:
          entry = try cursor.seek(before: sought)
          at = keys.lastIndex { $0 < sought } ?? -1
        case 2 where step % 7 == 0:
          entry = try cursor.seekToFirst()
          at = 0
        case 2 where step % 7 == 1:
          entry = try cursor.seekToLast()
          at = keys.count - 1
        // Runs in one direction.
        case 3..<(step / 100 % 2 == 0 ? 17 : 6):
          entry = try cursor.next()
          at = min(at + 1, keys.count)
        default:
          entry = try cursor.previous()
          at = max(at - 1, -1)
        }
        let expected = keys.indices.contains(at) ? keys[at] : nil
        XCTAssertEqual(entry?.key, expected, "\(name), step \(step)")
        XCTAssertEqual(entry?.value, expected.map { $0 * 2 }, "\(name), step \(step)")
        XCTAssertEqual(cursor.current?.key, expected, name)
      }
    }
  }

  func testLongKeysAndAnEmptyTree() throws {
    let tree = try DurableBTree<String, String>.create(in: makeHeap(), number: 1)
    let cursor = tree.makeCursor()
    XCTAssertNil(try cursor.next())
    XCTAssertNil(try cursor.previous())
    XCTAssertNil(try cursor.seek(to: "x"))
    for i in 100..<200 { try tree.setValue("value number \(i)", forKey: "a common prefix \(i)") }
    // It stood behind the last entry of an empty tree.
    XCTAssertEqual(try cursor.previous()?.key, "a common prefix 199")
    XCTAssertNil(try cursor.next())
    XCTAssertEqual(try cursor.seek(to: "a common prefix 15")?.value, "value number 150")
    XCTAssertEqual(try cursor.previous()?.value, "value number 149")
    XCTAssertEqual(try cursor.next()?.value, "value number 150")
  }

  /// A step leads to the next key, whatever happens to the one that it stands on and around it.
  func testWhileTheTreeChanges() throws {
    let options = nodeSizes[0].1
    let tree = try DurableBTree<Int, Int>.create(in: makeHeap(), number: 1, options: options)
    for key in stride(from: 0, to: 200, by: 2) { try tree.setValue(0, forKey: key) }
    let cursor = tree.makeCursor()
    XCTAssertEqual(try cursor.seek(to: 101)?.key, 102)
    for key in 90...110 { try tree.removeValue(forKey: key) }
    XCTAssertEqual(try cursor.previous()?.key, 88)
    XCTAssertEqual(try cursor.next()?.key, 112)
    tree.close()
    XCTAssertThrowsError(try cursor.seekToFirst()) { XCTAssertEqual(($0 as? NVMError)?.code, .closed) }
    XCTAssertThrowsError(try cursor.previous())
    XCTAssertEqual(cursor.current?.key, 112)
  }

  /// A cursor that meets a damaged entry stays where it was: it does not step over what it could not read.
  func testItStaysBeforeDamage() throws {
    let heap = try makeHeap(megabytes: 1)
    let options = TreeOptions(leafCapacity: 4, innerCapacity: 4, extentBytes: 16 << 10)
    let tree = try DurableBTree<Int, String>.create(in: heap, number: 3, options: options)
    for i in 0..<40 { try tree.setValue("the value of number \(i)", forKey: i) }
    let word = try XCTUnwrap(try tree.engine.lookup(SearchKey(head: 20.keyHead)))
    let record = try XCTUnwrap(tree.engine.recordOffset(20.keyHead, word))
    // No length is as large.
    try heap.region.withWritable(record + RecordLayout.valueLength, count: 8) {
      for i in 0..<8 { $0[i] = 0xFF }
    }
    for forward in [true, false] {
      let cursor = tree.makeCursor()
      func step() throws -> Int? { try (forward ? cursor.next() : cursor.previous())?.key }
      if !forward { try cursor.seekToLast() }
      var last = cursor.current?.key
      XCTAssertThrowsError(try { while let key = try step() { last = key } }())
      XCTAssertNotNil(last)
      for _ in 0..<3 {
        XCTAssertThrowsError(try step())
        XCTAssertEqual(cursor.current?.key, last)
      }
      let other = try forward ? cursor.seek(to: 30) : cursor.seek(before: 11)
      XCTAssertEqual(other?.key, forward ? 30 : 10)
      XCTAssertEqual(try step(), forward ? 31 : 9)
    }
  }
}
