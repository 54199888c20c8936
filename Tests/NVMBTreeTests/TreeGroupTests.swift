import NVMRegion
import NVMalloc
import XCTest

@testable import NVMBTree

/// Changes under persist groups where there is no journal: fences come later.
final class TreeGroupTests: XCTestCase {
  func testFences() throws {
    let heap = try makeHeap(megabytes: 64)
    let tree = try DurableBTree<UInt64, UInt64>.create(in: heap, number: 3)
    let group = heap.region.makePersistGroup()
    var random = SeededGenerator(seed: 5)
    let n = 100_000
    let keys = (0..<n).map { _ in random.next() }
    let before = heap.region.threadCounters
    for (i, key) in keys.enumerated() {
      try tree.setValue(~key, forKey: key, in: group)
      if i % 100 == 99 { try group.wait() }
    }
    let counts = heap.region.threadCounters - before
    XCTAssertLessThanOrEqual(Double(counts.fences + counts.orders) / Double(n), 0.15)
    XCTAssertTrue(group.isPersisted)
    assertClean(try tree.verify())
    XCTAssertEqual(tree.count, Set(keys).count)
    for key in keys { XCTAssertEqual(try tree[key], ~key) }
  }

  func testALeafHasOneChangeOutstanding() throws {
    let heap = try makeHeap()
    let tree = try DurableBTree<UInt64, UInt64>.create(in: heap, number: 3)
    let group = heap.region.makePersistGroup()
    try tree.setValue(1, forKey: 1, in: group)
    let before = heap.region.threadCounters
    try tree.setValue(2, forKey: 2, in: group)
    XCTAssertEqual((heap.region.threadCounters - before).fences, 1, "the change before is settled first")
    XCTAssertFalse(group.isPersisted)
    try tree.setValue(3, forKey: 3)
    XCTAssertEqual((heap.region.threadCounters - before).fences, 3, "and before a durable one")
    XCTAssertTrue(group.isPersisted)
    XCTAssertEqual((heap.region.threadCounters - before).fences, 3)
    XCTAssertEqual(try tree[2], 2)
    XCTAssertEqual((heap.region.threadCounters - before).fences, 3, "nothing to settle")
  }

  /// What a thread has put off is settled by who reads it, or changes it again.
  func testOtherThreads() throws {
    let heap = try makeHeap()
    let region = heap.region
    let tree = try DurableBTree<UInt64, UInt64>.create(in: heap, number: 3)
    for key in 0..<200 as Range<UInt64> { try tree.setValue(0, forKey: key) }
    let group = region.makePersistGroup()
    // One that lives on: a thread that ends has settled what it wrote back, but not what it has put off.
    let changed = DispatchSemaphore(value: 0)
    let over = DispatchSemaphore(value: 0)
    Thread {
      for key in [0, 100, 199] as [UInt64] { try? tree.setValue(7, forKey: key, in: group) }
      changed.signal()
      over.wait()
      changed.signal()
    }.start()
    changed.wait()
    XCTAssertFalse(group.isPersisted)
    let fences = region.threadCounters.fences
    XCTAssertEqual(try tree[100], 7)
    XCTAssertEqual(region.threadCounters.fences, fences + 1)
    XCTAssertTrue(group.isPersisted, "all of the thread's changes at once")
    XCTAssertEqual(try tree.updateValue(8, forKey: 0), 7)
    over.signal()
    changed.wait()
    assertClean(try tree.verify())
  }

  func testManyThreads() throws {
    let heap = try makeHeap(megabytes: 64)
    let tree = try DurableBTree<UInt64, String>.create(in: heap, number: 3)
    let failures = Lock<[String]>([])
    DispatchQueue.concurrentPerform(iterations: 4) { thread in
      do {
        let group = heap.region.makePersistGroup()
        var random = SeededGenerator(seed: UInt64(thread))
        for i in 0..<4000 as Range<UInt64> {
          let key = random.next() % 500 * 4 + UInt64(thread)
          switch random.next() % 8 {
          case 0: try tree.removeValue(forKey: key, in: group)
          case 1: try tree.removeValue(forKey: key)
          case 2: try tree.setValue("durable \(i)", forKey: key)
          case 3: _ = try tree[random.next() % 2000]
          default: try tree.setValue("a value under a group \(i)", forKey: key, in: group)
          }
          if i % 97 == 0 { try group.wait() }
        }
        try tree.setValue("last", forKey: 4000 + UInt64(thread), in: group)
      } catch {
        failures.withLock { $0.append("\(error)") }
      }
    }
    XCTAssertEqual(failures.withLock { $0 }, [])
    assertClean(try tree.verify())
    tree.trim()
    let report = try tree.verify()
    assertClean(report)
    XCTAssertEqual(report.unreachableRecords, 0, "what was replaced under groups was given back")
    for thread in 0..<4 as Range<UInt64> { XCTAssertEqual(try tree[4000 + thread], "last") }
  }
}
