import NVMRegion
import NVMalloc
import XCTest

@testable import NVMBTree

/// What single calls promise: sizes, errors, fences, ranges, bulk load.
final class TreeAccessTests: XCTestCase {
  func testLargeKeysAndValues() throws {
    let heap = try makeHeap(megabytes: 256)
    let tree = try DurableBTree<[UInt8], [UInt8]>.create(in: heap, number: 3)
    let longKey = [UInt8](repeating: 7, count: 64 << 10)
    let otherKey = longKey + [0]
    var large = [UInt8](repeating: 0x5A, count: 64 << 20)
    for i in stride(from: 0, to: large.count, by: 4099) { large[i] = UInt8(truncatingIfNeeded: i &* 31) }
    try tree.setValue(large, forKey: longKey)
    try tree.setValue([1], forKey: otherKey)
    XCTAssertEqual(try tree[longKey], large)
    XCTAssertEqual(try tree[otherKey], [1])
    try tree.withBytes(forKey: longKey) { span in XCTAssertEqual(span?.byteCount, 64 << 20) }
    try tree.withBytes(forKey: [9]) { span in XCTAssertNil(span?.byteCount) }
    assertClean(try tree.verify())
    XCTAssertEqual(try tree.removeValue(forKey: longKey), large)
    tree.trim()
    let report = try tree.verify()
    assertClean(report)
    XCTAssertEqual(report.unreachableRecords, 0)
  }

  func testKeyBeyondTheLimitIsRefused() throws {
    let heap = try makeHeap()
    let tree = try DurableBTree<[UInt8], Int>.create(in: heap, number: 3)
    XCTAssertThrowsError(try tree.setValue(1, forKey: [UInt8](repeating: 0, count: (1 << 20) + 1))) {
      XCTAssertEqual(($0 as? NVMError)?.code, .tooLarge)
    }
    XCTAssertEqual(tree.count, 0)
  }

  func testAtomicUpdates() throws {
    let heap = try makeHeap()
    let tree = try DurableBTree<String, String>.create(in: heap, number: 3)
    XCTAssertTrue(try tree.insertValue("a long enough value", forKey: "k"))
    XCTAssertFalse(try tree.insertValue("another", forKey: "k"))
    XCTAssertTrue(try tree.compareExchange(forKey: "k", expected: "a long enough value", desired: "b"))
    XCTAssertFalse(try tree.compareExchange(forKey: "k", expected: "a long enough value", desired: "c"))
    XCTAssertTrue(try tree.compareExchange(forKey: "k", expected: "b", desired: nil))
    XCTAssertTrue(try tree.compareExchange(forKey: "k", expected: nil, desired: "d"))
    XCTAssertEqual(try tree["k"], "d")
    XCTAssertEqual(try tree.updateValue(forKey: "k") { $0! + "e" }, "de")
    XCTAssertNil(try tree.updateValue(forKey: "k") { _ in nil })
    XCTAssertEqual(tree.count, 0)
  }

  func testRangesInBothDirections() throws {
    let heap = try makeHeap()
    for (name, options) in nodeSizes {
      let number = UInt32(10 + options.leafCapacity)
      let tree = try DurableBTree<Int32, Int>.create(in: heap, number: number, options: options)
      let keys = stride(from: Int32(-500), to: 500, by: 5).map { $0 }
      for key in keys.shuffled() { try tree.setValue(Int(key) * 2, forKey: key) }
      for lower in stride(from: Int32(-510), to: 510, by: 17) {
        for width in [0, 1, 5, 33, 400] as [Int32] {
          let upper = lower + width
          let half = keys.filter { $0 >= lower && $0 < upper }
          let closed = keys.filter { $0 >= lower && $0 <= upper }
          XCTAssertEqual(try tree[lower..<upper].map(\.key), half, name)
          XCTAssertEqual(try tree[lower..<upper].reversed().map(\.key), half.reversed(), name)
          XCTAssertEqual(try tree[lower...upper].map(\.key), closed, name)
          XCTAssertEqual(try tree[lower...upper].reversed().map(\.key), closed.reversed(), name)
        }
        XCTAssertEqual(try tree[lower...].map(\.key), keys.filter { $0 >= lower }, name)
        XCTAssertEqual(try tree[..<lower].reversed().map(\.key), keys.filter { $0 < lower }.reversed(), name)
        XCTAssertEqual(try tree[...lower].map(\.key), keys.filter { $0 <= lower }, name)
        XCTAssertEqual(try tree.lowerBound(lower)?.key, keys.first { $0 >= lower }, name)
        XCTAssertEqual(try tree.upperBound(lower)?.key, keys.first { $0 > lower }, name)
      }
      XCTAssertEqual(try tree.removeAll(in: -100...100), 41, name)
      XCTAssertEqual(try tree[-100...100].map(\.key), [], name)
      XCTAssertEqual(tree.count, keys.count - 41, name)
      assertClean(try tree.verify(), name)
      XCTAssertEqual(try tree.removeAll(), keys.count - 41, name)
      XCTAssertNil(try tree.first, name)
      assertClean(try tree.verify(), name)
    }
  }

  func testAnEmptyTree() throws {
    let heap = try makeHeap()
    let tree = try DurableBTree<UInt64, UInt64>.create(in: heap, number: 3)
    XCTAssertTrue(tree.isEmpty)
    XCTAssertNil(try tree.first)
    XCTAssertNil(try tree.last)
    XCTAssertNil(try tree[0])
    XCTAssertNil(try tree.removeValue(forKey: .max))
    XCTAssertEqual(try tree.removeAll(), 0)
    XCTAssertEqual(Array(try tree[...]).count, 0)
    assertClean(try tree.verify())
  }

  func testExtremeKeys() throws {
    let heap = try makeHeap()
    let tree = try DurableBTree<UInt64, UInt64>.create(in: heap, number: 3)
    for key in [0, 1, .max - 1, .max] as [UInt64] { try tree.setValue(~key, forKey: key) }
    XCTAssertEqual(try tree[...].map(\.key), [0, 1, .max - 1, .max])
    XCTAssertEqual(try tree[...UInt64.max].reversed().map(\.key), [.max, .max - 1, 1, 0])
    XCTAssertEqual(try tree[UInt64.max...].map(\.value), [0])
  }

  func testBulkLoad() throws {
    for (name, options) in nodeSizes {
      let heap = try makeHeap()
      let tree = try DurableBTree<Int, Int>.create(in: heap, number: 3, options: options)
      let n = options.leafCapacity * 700 + 1
      let before = heap.region.threadCounters
      try tree.append(contentsOf: (0..<n).map { ($0 * 2, $0) })
      let fences = (heap.region.threadCounters - before).fences
      XCTAssertEqual(tree.count, n, name)
      XCTAssertLessThan(fences, 40, "\(name): a bulk load needs a fence for each chunk and each extent")
      XCTAssertEqual(try tree[...].map(\.value), Array(0..<n), name)
      if options.leafCapacity == TreeOptions().leafCapacity {
        XCTAssertGreaterThanOrEqual(tree.statistics.fill, 0.95, "leaves are full after a bulk load")
      }
      assertClean(try tree.verify(), name)
      // More behind it, and refusals that change nothing.
      try tree.append(contentsOf: [(2 * n, n)])
      for bad in [
        [(2 * n, 0)], [(0, 0)], [(2 * n + 5, 0), (2 * n + 4, 0)], [(2 * n + 5, 0), (2 * n + 5, 0)],
      ] {
        XCTAssertThrowsError(try tree.append(contentsOf: bad)) {
          XCTAssertEqual(($0 as? NVMError)?.code, .invalidArgument, name)
        }
      }
      XCTAssertEqual(tree.count, n + 1, name)
      for key in 0..<100 { XCTAssertNil(try tree.updateValue(-1, forKey: key * 2 + 1), name) }
      assertClean(try tree.verify(), name)
      tree.close()
      let again = try DurableBTree<Int, Int>.open(in: heap, at: tree.handle, options: options)
      XCTAssertEqual(again.count, n + 101, name)
      assertClean(try again.verify(), name)
    }
  }

  func testBulkLoadOfRecordsLeavesNothingBehindOnError() throws {
    let heap = try makeHeap()
    let tree = try DurableBTree<String, String>.create(in: heap, number: 3)
    XCTAssertThrowsError(
      try tree.append(contentsOf: [
        ("a rather long key", "value 1"), ("a rather long", "a rather long value"),
      ]))
    let report = try tree.verify()
    XCTAssertEqual(report.unreachableRecords, 0)
    XCTAssertEqual(tree.count, 0)
  }

  /// The budget of the design, counted: fences, orders and lines are the same on every run.
  func testFencesAndLines() throws {
    let heap = try makeHeap(megabytes: 128)
    let tree = try DurableBTree<UInt64, UInt64>.create(in: heap, number: 3)
    var random = SeededGenerator(seed: 5)
    let n = 100_000
    let keys = (0..<n).map { _ in random.next() }
    func measure(_ body: () throws -> Void) rethrows -> (fences: Double, lines: Double) {
      let before = heap.region.threadCounters
      try body()
      let c = heap.region.threadCounters - before
      return (Double(c.fences + c.orders) / Double(n), Double(c.lines) / Double(n))
    }
    let insert = try measure { for key in keys { try tree.setValue(key, forKey: key) } }
    XCTAssertLessThanOrEqual(insert.fences, 1.3)
    XCTAssertLessThanOrEqual(insert.lines, 2)
    let update = try measure { for key in keys { try tree.setValue(~key, forKey: key) } }
    XCTAssertLessThanOrEqual(update.fences, 1.3)
    let lookup = try measure {
      for key in keys { XCTAssertEqual(try tree[key], ~key) }
      XCTAssertEqual(try tree[...].reduce(0) { n, _ in n + 1 }, n)
    }
    XCTAssertEqual(lookup.fences, 0)
    XCTAssertEqual(lookup.lines, 0)
    XCTAssertGreaterThanOrEqual(tree.statistics.fill, 0.65)
    let delete = try measure {
      for key in keys.shuffled(using: &random) { try tree.removeValue(forKey: key) }
    }
    XCTAssertLessThanOrEqual(delete.fences, 1.1)
    print("fences, lines: insert \(insert), update \(update), delete \(delete)")

    let records = try DurableBTree<UInt64, String>.create(in: heap, number: 4)
    let value = String(repeating: "v", count: 100)
    let record = try measure { for key in keys { try records.setValue(value, forKey: key) } }
    XCTAssertLessThanOrEqual(record.fences, 2.2)
    print("with a record \(record)")
  }

  func testTypesAreChecked() throws {
    let heap = try makeHeap()
    let tree = try DurableBTree<UInt64, Int>.create(in: heap, number: 3)
    XCTAssertThrowsError(try DurableBTree<UInt64, String>.open(in: heap, at: tree.handle)) {
      XCTAssertEqual(($0 as? NVMError)?.code, .typeMismatch)
    }
    XCTAssertThrowsError(try DurableBTree<Int64, Int>.open(in: heap, at: tree.handle)) {
      XCTAssertEqual(($0 as? NVMError)?.code, .typeMismatch)
    }
    for wrong in [Offset.null, tree.handle + 8, Offset(rawValue: .max), Offset(heap.region.size)] {
      XCTAssertThrowsError(try DurableBTree<UInt64, Int>.open(in: heap, at: wrong)) {
        XCTAssertEqual(($0 as? NVMError)?.code, .corrupt)
      }
    }
  }

  func testStandaloneUnderARoot() throws {
    let heap = try makeHeap()
    do {
      let tree = try DurableBTree<String, Int>(in: heap, root: "ages")
      try tree.setValue(41, forKey: "ada")
    }
    let tree = try DurableBTree<String, Int>(in: heap, root: "ages")
    XCTAssertEqual(try tree["ada"], 41)
    // A second handle is the same open tree: neither harms what the other does.
    let second = try DurableBTree<String, Int>(in: heap, root: "ages")
    for i in 0..<1000 { try (i % 2 == 0 ? tree : second).setValue(i, forKey: "key \(i)") }
    XCTAssertEqual(tree.count, 1001)
    XCTAssertEqual(second.count, 1001)
    assertClean(try second.verify())
    tree.close()
    XCTAssertThrowsError(try second["ada"]) { XCTAssertEqual(($0 as? NVMError)?.code, .closed) }
    XCTAssertThrowsError(try second.setValue(1, forKey: "x")) {
      XCTAssertEqual(($0 as? NVMError)?.code, .closed)
    }
    XCTAssertThrowsError(try second[...]) { XCTAssertEqual(($0 as? NVMError)?.code, .closed) }
    let third = try DurableBTree<String, Int>(in: heap, root: "ages")
    XCTAssertEqual(third.count, 1001)
    assertClean(try third.verify())
    XCTAssertThrowsError(try DurableBTree<String, UInt8>(in: heap, root: "ages"))
    let other = try DurableBTree<String, UInt8>(in: heap, root: "other")
    XCTAssertNotEqual(other.number, tree.number)
  }

  func testRemovedTreeLeavesNothing() throws {
    let heap = try makeHeap()
    let tree = try DurableBTree<String, String>.create(in: heap, number: 9)
    for i in 0..<5000 { try tree.setValue("value number \(i)", forKey: "key number \(i)") }
    try DurableBTree<String, String>.remove(number: 9, from: heap)
    var left = 0
    try heap.forEachBlock(owner: OwnerToken(rawValue: 9)) { _ in left += 1 }
    XCTAssertEqual(left, 0)
  }

  func testClosedAndReadOnly() throws {
    let path = NSTemporaryDirectory() + "nvm-tree-\(UUID().uuidString)"
    defer { unlink(path) }
    var handle = Offset.null
    do {
      let region = try PersistentRegion.create(
        at: path, size: 8 << 20, options: RegionOptions(media: .emulated))
      let heap = try PersistentHeap.format(region)
      let tree = try DurableBTree<Int, String>.create(in: heap, number: 3)
      for i in 0..<300 { try tree.setValue("a value that needs a record \(i)", forKey: i) }
      handle = tree.handle
      tree.close()
      heap.close()
      try region.close()
      XCTAssertThrowsError(try tree[1]) { XCTAssertEqual(($0 as? NVMError)?.code, .closed) }
      XCTAssertThrowsError(try tree.setValue("", forKey: 1)) {
        XCTAssertEqual(($0 as? NVMError)?.code, .closed)
      }
      XCTAssertThrowsError(try tree[...]) { XCTAssertEqual(($0 as? NVMError)?.code, .closed) }
    }
    var options = RegionOptions(media: .emulated)
    options.access = .readOnly
    let region = try PersistentRegion.open(at: path, options: options)
    let heap = try PersistentHeap.open(region)
    let tree = try DurableBTree<Int, String>.open(in: heap, at: handle)
    XCTAssertEqual(tree.count, 300)
    XCTAssertEqual(try tree[299], "a value that needs a record 299")
    XCTAssertThrowsError(try tree.setValue("", forKey: 1)) {
      XCTAssertEqual(($0 as? NVMError)?.code, .readOnly)
    }
    XCTAssertThrowsError(try tree.removeValue(forKey: 1)) {
      XCTAssertEqual(($0 as? NVMError)?.code, .readOnly)
    }
    XCTAssertThrowsError(try tree.append(contentsOf: [(999, "")])) {
      XCTAssertEqual(($0 as? NVMError)?.code, .readOnly)
    }
    assertClean(try tree.verify())
  }

  /// An exchange that does not take place writes nothing.
  func testARefusedExchangeWritesNothing() throws {
    let heap = try makeHeap(megabytes: 1)
    let tree = try DurableBTree<Int, String>.create(in: heap, number: 3)
    try tree.setValue("what is there now", forKey: 1)
    let before = heap.region.counters
    XCTAssertFalse(try tree.compareExchange(forKey: 1, expected: nil, desired: "other"))
    XCTAssertFalse(try tree.compareExchange(forKey: 1, expected: "something else", desired: nil))
    XCTAssertFalse(try tree.compareExchange(forKey: 2, expected: "something", desired: "other"))
    XCTAssertEqual(heap.region.counters, before)
    XCTAssertTrue(try tree.compareExchange(forKey: 1, expected: "what is there now", desired: "other"))
    XCTAssertTrue(try tree.compareExchange(forKey: 2, expected: nil, desired: "new"))
    XCTAssertTrue(try tree.compareExchange(forKey: 1, expected: "other", desired: nil))
    XCTAssertTrue(try tree.compareExchange(forKey: 1, expected: nil, desired: nil))
    XCTAssertEqual(Array(try tree[...]).map(\.value), ["new"])
  }

  /// A bulk load behind a last leaf that has become empty: all keys are found, those before it too.
  func testAppendingBehindAnEmptyLeaf() throws {
    for (name, options) in nodeSizes {
      let heap = try makeHeap(megabytes: 4)
      let tree = try DurableBTree<String, Int>.create(in: heap, number: 3, options: options)
      func key(_ i: Int) -> String { "a prefix that all keys share, \(i + 1000)" }
      for i in 0..<200 { try tree.setValue(i, forKey: key(i)) }
      for i in 150..<200 { try tree.removeValue(forKey: key(i)) }
      try tree.append(contentsOf: (200..<300).map { (key($0), $0) })
      for i in 0..<300 { XCTAssertEqual(try tree[key(i)], (150..<200).contains(i) ? nil : i, name) }
      assertClean(try tree.verify(), name)
    }
  }

  /// A bulk load takes keys above all that are there, also where greater ones were there before.
  func testAppendingBelowWhatWasRemoved() throws {
    for (name, options) in nodeSizes {
      let heap = try makeHeap(megabytes: 4)
      let tree = try DurableBTree<String, Int>.create(in: heap, number: 3, options: options)
      func entries(_ range: Range<Int>) -> [(String, Int)] {
        range.map { ("a prefix that all keys share, \($0 + 1000)", $0) }
      }
      try tree.append(contentsOf: entries(0..<200))
      for cut in [199, 190, 150, 60, 1, 0] {
        for (key, _) in entries(cut..<200) { try tree.removeValue(forKey: key) }
        try tree.append(contentsOf: entries(cut..<200))
        XCTAssertEqual(Array(try tree[...]).map(\.value), Array(0..<200), name)
        assertClean(try tree.verify(), name)
        XCTAssertThrowsError(try tree.append(contentsOf: entries(199..<200)))
        XCTAssertThrowsError(try tree.append(contentsOf: entries(10..<12)))
      }
      tree.trim()
      tree.close()
      let again = try DurableBTree<String, Int>.open(in: heap, at: tree.handle, options: options)
      XCTAssertEqual(Array(try again[...]).map(\.value), Array(0..<200), name)
      assertClean(try again.verify(), name)
    }
  }
}
