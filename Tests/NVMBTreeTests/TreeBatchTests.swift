import Dispatch
import NVMRegion
import NVMalloc
import Synchronization
import XCTest

@testable import NVMBTree

/// Many look-ups and updates in one call, against a dictionary and beside other threads.
final class TreeBatchTests: XCTestCase {
  private func runModel<Key: DurableKey & Hashable, Value: DurableValue & Equatable>(
    seed: UInt64, key: (inout SeededGenerator) -> Key, value: (inout SeededGenerator) -> Value
  ) throws {
    for (name, options) in nodeSizes {
      let context = "\(name), seed \(seed)"
      var random = SeededGenerator(seed: seed)
      let heap = try makeHeap(megabytes: 32)
      let tree = try DurableBTree<Key, Value>.create(in: heap, number: 1, options: options)
      var model: [Key: Value] = [:]
      for _ in 0..<400 {
        // From none to several groups; a key may come twice.
        let entries = (0..<Int.random(in: 0..<60, using: &random)).map { _ in (key(&random), value(&random)) }
        var inserted = 0
        for (k, v) in entries where model.updateValue(v, forKey: k) == nil { inserted += 1 }
        XCTAssertEqual(try tree.updateValues(entries), inserted, context)
        XCTAssertEqual(tree.count, model.count, context)
        for _ in 0..<8 {
          let k = key(&random)
          XCTAssertEqual(try tree.removeValue(forKey: k), model.removeValue(forKey: k), context)
        }
        let asked = (0..<Int.random(in: 0..<60, using: &random)).map { _ in key(&random) }
        XCTAssertEqual(try tree.values(forKeys: asked), asked.map { model[$0] }, context)
      }
      XCTAssertEqual(Dictionary(uniqueKeysWithValues: Array(try tree[...])), model, context)
      assertClean(try tree.verify(), context)
      XCTAssertEqual(try tree.removeAll(), model.count)
      tree.trim()
      assertClean(try tree.verify(), context)
    }
  }

  func testWords() throws {
    try runModel(seed: 1) {
      Int.random(in: -900..<900, using: &$0)
    } value: {
      $0.next()
    }
  }

  func testLongKeysWithACommonPrefixAndBytes() throws {
    try runModel(seed: 2) {
      "https://example.org/a/path/that/all/share/\(Int.random(in: 0..<700, using: &$0))"
    } value: {
      [UInt8](repeating: UInt8($0.next() & 0xFF), count: Int.random(in: 0..<40, using: &$0))
    }
  }

  func testShortKeysAndStrings() throws {
    try runModel(seed: 3) {
      String(Int.random(in: 0..<900, using: &$0), radix: 36)
    } value: {
      String(repeating: "v", count: Int.random(in: 0..<20, using: &$0))
    }
  }

  /// Sixteen entries of different leaves take one fence, and so do many of one leaf.
  func testOneFenceAGroup() throws {
    let heap = try makeHeap(megabytes: 32)
    let tree = try DurableBTree<Int, Int>.create(in: heap, number: 1)
    try tree.append(contentsOf: (0..<20_000).map { ($0, 0) })
    for key in stride(from: 0, to: 20_000, by: 3) { try tree.removeValue(forKey: key) }
    let region = heap.region
    func fences(_ body: () throws -> Void) rethrows -> UInt64 {
      let before = region.threadCounters
      try body()
      let spent = region.threadCounters - before
      return spent.fences + spent.orders
    }
    XCTAssertEqual(try fences { try tree.updateValues((0..<16).map { ($0 * 1200 + 1, 5) }) }, 1)
    XCTAssertEqual(try fences { try tree.updateValues((0..<4).map { (9000 + 3 * $0, 6) }) }, 1)
    XCTAssertEqual(try fences { _ = try tree.values(forKeys: 0..<500) }, 0)
    XCTAssertEqual(try fences { try tree.updateValues([]) }, 0)
    assertClean(try tree.verify())
  }

  /// An error stores a first part of the entries and leaks no record.
  func testErrorInTheMiddle() throws {
    let region = try PersistentRegion.inMemory(image: nil, size: 1 << 20, maximumSize: 1 << 20, medium: nil)
    let heap = try PersistentHeap.format(region)
    let tree = try DurableBTree<String, [UInt8]>.create(
      in: heap, number: 1, options: TreeOptions(leafCapacity: 9, innerCapacity: 5, extentBytes: 16 << 10))
    let entries = (0..<2000).map {
      ("a key of some length \($0 * 7919 % 2000)", [UInt8](repeating: 1, count: 900))
    }
    XCTAssertThrowsError(try tree.updateValues(entries)) {
      XCTAssertEqual(($0 as? NVMError)?.code, .outOfSpace)
    }
    let stored = tree.count
    XCTAssertGreaterThan(stored, 100)
    XCTAssertEqual(try tree.values(forKeys: entries.map(\.0)).prefix { $0 != nil }.count, stored)
    let report = try tree.verify()
    assertClean(report)
    XCTAssertEqual(report.unreachableRecords, 0)
  }

  /// Batches and single operations of several threads on the same leaves: each thread's keys are its own.
  func testBesideOtherThreads() throws {
    for (name, options) in nodeSizes {
      let heap = try makeHeap(megabytes: 32)
      let tree = try DurableBTree<Int, Int>.create(in: heap, number: 1, options: options)
      let failures = Mutex<[String]>([])
      DispatchQueue.concurrentPerform(iterations: 4) { thread in
        do {
          var random = SeededGenerator(seed: UInt64(thread))
          var mine: [Int: Int] = [:]
          for step in 0..<300 {
            let keys = (0..<20).map { _ in Int.random(in: 0..<500, using: &random) * 4 + thread }
            if thread % 2 == 0 {
              try tree.updateValues(keys.map { ($0, step) })
            } else {
              for key in keys { try tree.setValue(step, forKey: key) }
            }
            for key in keys { mine[key] = step }
            for key in keys.prefix(5) {
              guard try tree.removeValue(forKey: key) == mine.removeValue(forKey: key) else {
                throw Mismatch("\(name): removed")
              }
            }
            let asked = mine.keys.prefix(40) + keys.prefix(5)
            guard try tree.values(forKeys: asked) == asked.map({ mine[$0] }) else { throw Mismatch(name) }
          }
        } catch {
          failures.withLock { $0.append("\(error)") }
        }
      }
      XCTAssertEqual(failures.withLock { $0 }, [])
      assertClean(try tree.verify(), name)
    }
  }
}
