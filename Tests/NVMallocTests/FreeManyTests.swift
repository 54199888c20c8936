import NVMRegion
import NVMalloc
import XCTest

/// `deallocate(contentsOf:)`.
final class FreeManyTests: XCTestCase {
  /// More than are freed together, of several classes in random order, some of them large: all of them, with one fence.
  func testAllAreFreedWithOneFence() throws {
    for shares in [1, 4] {
      let heap = try makeHeap(size: 4 << 20, quarantine: .quarantine(.seconds(100)), shares: shares)
      var random = SplitMix(seed: 3)
      var kept: Set<Offset> = []
      var doomed: [Offset] = []
      for i in 0..<1000 {
        let size = [8, 40, 300, 3000, 9000].randomElement(using: &random)!
        let p = try heap.allocate(byteCount: i % 5 == 0 ? size : 40)
        if i % 3 == 0 { kept.insert(p) } else { doomed.append(p) }
      }
      doomed.shuffle(using: &random)
      let before = heap.region.threadCounters
      try heap.deallocate(contentsOf: doomed)
      let spent = heap.region.threadCounters - before
      XCTAssertEqual(spent.fences, 1)
      XCTAssertEqual(spent.orders, 0)
      XCTAssertEqual(spent.lines, UInt64(doomed.count))
      XCTAssertEqual(heap.statistics.quarantinedBlocks, doomed.count)
      for h in [heap, try reopened(heap)] {
        XCTAssertEqual(Set(try h.blocks.map(\.payload)), kept)
        XCTAssertEqual(try h.verify().problems, [])
      }
    }
  }

  func testNothingAndDeferred() throws {
    let heap = try makeHeap()
    let blocks = try (0..<3).map { _ in try heap.allocate(byteCount: 40) }
    let before = heap.region.threadCounters
    try heap.deallocate(contentsOf: [])
    try heap.deallocate(contentsOf: blocks, durability: .deferred)
    let spent = heap.region.threadCounters - before
    XCTAssertEqual(spent.fences, 0)
    XCTAssertEqual(spent.lines, 3)
    XCTAssertEqual(heap.statistics.liveBlocks, 0)
  }

  /// What rests is used again in the order of the call.
  func testTheyRestInOrder() throws {
    let heap = try makeHeap(size: 1 << 20, quarantine: .quarantine(.milliseconds(200)))
    heap.setTime(1_000_000_000)
    var all: [Offset] = []
    while let p = try? heap.allocate(byteCount: 40) { all.append(p) }
    var random = SplitMix(seed: 9)
    let doomed = Array(all.shuffled(using: &random).prefix(100))
    try heap.deallocate(contentsOf: doomed)
    heap.setTime(2_000_000_000)
    XCTAssertEqual(try doomed.map { _ in try heap.allocate(byteCount: 40) }, doomed)
  }

  /// The first that cannot be freed is named; those before it are free, those behind it are not.
  func testAnErrorInTheMiddle() throws {
    for wrong in [5, 31, 32, 70] {
      let heap = try makeHeap()
      let blocks = try (0..<100).map { _ in try heap.allocate(byteCount: 40) }
      var doomed = blocks
      doomed[wrong] = blocks[wrong] + 8
      XCTAssertThrowsError(try heap.deallocate(contentsOf: doomed)) { error in
        XCTAssertEqual((error as? NVMError)?.code, .foreignOffset)
        XCTAssertEqual((error as? NVMError)?.offset, doomed[wrong].rawValue)
      }
      for h in [heap, try reopened(heap)] {
        XCTAssertEqual(Set(try h.blocks.map(\.payload)), Set(blocks[wrong...]), "\(wrong)")
      }
      // The same twice, near and far apart; outside, and null.
      let rest = Array(blocks[wrong...])
      assertThrows(.doubleFree, try heap.deallocate(contentsOf: [rest[0], rest[1], rest[0]]))
      assertThrows(.doubleFree, try heap.deallocate(contentsOf: Array(rest[2...]) + [rest[1]]))
      XCTAssertEqual(heap.statistics.liveBlocks, 0)
      assertThrows(.foreignOffset, try heap.deallocate(contentsOf: [.null]))
      assertThrows(.foreignOffset, try heap.deallocate(contentsOf: [Offset(rawValue: .max - 15)]))
      XCTAssertEqual(try heap.verify().problems, [])
    }
  }

  /// Threads free each other's blocks while others come from the same classes.
  func testThreadsFreeManyAtATime() throws {
    let heap = try makeHeap(size: 8 << 20, shares: 2)
    let threads = Threads()
    for t in 0..<3 as Range<UInt64> {
      threads.run {
        var random = SplitMix(seed: t)
        for _ in 0..<40 {
          do {
            var blocks: [Offset] = []
            for _ in 0..<100 {
              let p = try heap.allocate(byteCount: Int.random(in: 8..<400, using: &random))
              heap.region.store(p.rawValue, at: p)
              blocks.append(p)
            }
            for p in blocks where heap.region.load(p) != p.rawValue { XCTFail("\(p) was handed out twice") }
            blocks.shuffle(using: &random)
            try heap.deallocate(contentsOf: blocks)
          } catch { XCTFail("\(error)") }
        }
      }
    }
    threads.wait()
    XCTAssertEqual(heap.statistics.liveBlocks, 0)
    XCTAssertEqual(try heap.verify().problems, [])
  }
}
