import NVMRegion
import XCTest

@testable import NVMBTree

/// How much space entries take, counted.
final class TreeSpaceTests: XCTestCase {
  private func tree(_ megabytes: Int = 64) throws -> DurableBTree<UInt64, UInt64> {
    try DurableBTree<UInt64, UInt64>.create(in: makeHeap(megabytes: megabytes), number: 1)
  }

  func testAfterRandomInserts() throws {
    let tree = try tree()
    var random = SeededGenerator(seed: 5)
    for _ in 0..<200_000 { try tree.setValue(random.next(), forKey: random.next()) }
    let s = tree.statistics
    XCTAssertGreaterThanOrEqual(s.fill, 0.65)
    XCTAssertLessThanOrEqual(Double(s.leaves * LeafLayout.size) / Double(s.entries), 28)
    // Extents grow by an eighth.
    XCTAssertLessThanOrEqual(Double(s.nodeBytes) / Double(s.entries), 28 * 1.125)
    XCTAssertLessThanOrEqual(Double(s.memoryBytes), 0.1 * Double(s.nodeBytes))
  }

  func testAfterBulkLoadAndAscendingInserts() throws {
    let tree = try tree()
    try tree.append(contentsOf: (0..<100_000).map { (UInt64($0), 1) })
    XCTAssertGreaterThanOrEqual(tree.statistics.fill, 0.95)
    for key in 100_000..<150_000 { try tree.setValue(1, forKey: UInt64(key)) }
    XCTAssertGreaterThanOrEqual(tree.statistics.fill, 0.95)
  }

  func testDeletesGiveEverythingBack() throws {
    let tree = try tree()
    var random = SeededGenerator(seed: 6)
    let keys = (0..<60_000).map { _ in random.next() }
    for key in keys { try tree.setValue(key, forKey: key) }
    let full = tree.statistics
    for key in keys.dropLast(30) { try tree.removeValue(forKey: key) }
    tree.trim()
    XCTAssertLessThanOrEqual(tree.statistics.nodeBytes, full.nodeBytes / 4)
    for key in keys.suffix(30) { try tree.removeValue(forKey: key) }
    tree.trim()
    let empty = tree.statistics
    XCTAssertEqual(empty.leaves, 1)
    XCTAssertEqual(empty.nodeBytes / LeafLayout.size, empty.freeNodes + 1)
    XCTAssertLessThanOrEqual(empty.nodeBytes, TreeOptions().extentBytes)
    XCTAssertEqual(empty.height, 0)
    assertClean(try tree.verify())
  }

  /// Inner nodes that a tree of long keys gave back serve a tree of words: nothing of the long keys is left in them.
  func testNodesOfLongKeysServeWords() throws {
    let heap = try makeHeap()
    let options = TreeOptions(leafCapacity: 4, innerCapacity: 4, extentBytes: 16 << 10)
    let texts = try DurableBTree<String, Int>.create(in: heap, number: 3, options: options)
    func text(_ i: Int) -> String { "a prefix that all keys share, \(i + 100_000)" }
    for i in 0..<2000 { try texts.setValue(i, forKey: text(i)) }
    for i in 0..<2000 { try texts.removeValue(forKey: text(i)) }
    texts.trim()
    let words = try DurableBTree<Int, Int>.create(in: heap, number: 4, options: options)
    for i in 0..<2000 { try words.setValue(i, forKey: i) }
    XCTAssertEqual(Array(try words[...].reversed()).map(\.key), (0..<2000).reversed())
    XCTAssertEqual(try words.last?.key, 1999)
    let cursor = words.makeCursor()
    XCTAssertEqual(try cursor.seek(before: 1000)?.key, 999)
    XCTAssertEqual(try cursor.previous()?.key, 998)
    // And back again.
    for i in 0..<2000 { try words.removeValue(forKey: i) }
    for i in 0..<2000 { try texts.setValue(i, forKey: text(i)) }
    XCTAssertEqual(Array(try texts[...].reversed()).map(\.value), (0..<2000).reversed())
    assertClean(try texts.verify())
    assertClean(try words.verify())
  }
}
