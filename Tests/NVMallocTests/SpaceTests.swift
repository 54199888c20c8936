import NVMRegion
import NVMalloc
import XCTest

/// Quarantine, growth, full heaps, and what comes back.
final class SpaceTests: XCTestCase {
  func testFreedBlocksRest() throws {
    for size in [40, 3000, 20_000] {
      let heap = try makeHeap(size: 1 << 20, quarantine: .quarantine(.milliseconds(200)))
      heap.setTime(1_000_000_000)
      // No fresh block of the class is left to prefer.
      var all: [Offset] = []
      while let p = try? heap.allocate(byteCount: size) { all.append(p) }
      let freed = all.prefix(5)
      for (i, p) in freed.enumerated() {
        heap.setTime(1_000_000_000 + UInt64(i) * 100_000_000)
        try heap.deallocate(p)
      }
      XCTAssertEqual(heap.statistics.quarantinedBlocks, 5)
      // The first two have rested, the first one longer.
      heap.setTime(1_000_000_000 + 320_000_000)
      XCTAssertEqual(try heap.allocate(byteCount: size), freed[0])
      XCTAssertEqual(try heap.allocate(byteCount: size), freed[1])
      XCTAssertEqual(heap.statistics.quarantinedBlocks, 3)
      // Under pressure the oldest is used early.
      XCTAssertEqual(try heap.allocate(byteCount: size), freed[2])
    }
  }

  func testRestingBlocksAreNotUsedWhileThereIsRoom() throws {
    let heap = try makeHeap(size: 1 << 20, quarantine: .quarantine(.seconds(1)))
    heap.setTime(5_000_000_000)
    var last: Set<Offset> = []
    for _ in 0..<500 {
      let p = try heap.allocate(byteCount: 40)
      XCTAssert(last.insert(p).inserted)
      try heap.deallocate(p)
    }
    heap.setTime(6_100_000_000)
    // What rested and what is fresh may be used now, in any order; free at open is exempt.
    let again = try reopened(heap, quarantine: .quarantine(.seconds(1)))
    XCTAssertEqual(again.statistics.quarantinedBlocks, 0)
    XCTAssertTrue(last.contains(try again.allocate(byteCount: 40)))
  }

  /// What nothing but single runs of two units is left for.
  private func heapOfPairs(with block: Int? = nil) throws -> (PersistentHeap, [Offset]) {
    let heap = try makeHeap(size: 256 << 10)
    var slab: [Offset] = []
    if let block { slab = [try heap.allocate(byteCount: block), try heap.allocate(byteCount: block)] }
    var units: [Offset] = []
    while let p = try? heap.allocate(byteCount: 1024, alignment: 1024) { units.append(p) }
    units.sort { $0.rawValue < $1.rawValue }
    // Every third one stays, and holds the others apart.
    for (i, p) in units.enumerated() where i % 3 != 0 { try heap.deallocate(p) }
    return (heap, slab)
  }

  /// A block in front of which a header would not fit any more gets an extent of its own.
  func testWithoutRoomForASlabAnExtentDoes() throws {
    let (heap, _) = try heapOfPairs()
    let p = try heap.allocate(byteCount: 2048, tag: BlockTag(rawValue: 7))
    XCTAssertTrue(try heap.info(of: p).isLarge)
    XCTAssertEqual(try heap.info(of: p).length, 2048)
    let r = try heap.reserve(byteCount: 2040)
    heap.cancel(r)
    // Three units in one piece there are not.
    assertThrows(.outOfSpace, try heap.allocate(byteCount: 2100))
    XCTAssertEqual(try reopened(heap).info(of: p).tag, BlockTag(rawValue: 7))
    try heap.deallocate(p)
    XCTAssertEqual(try heap.verify().problems, [])
  }

  /// A free block of a larger class serves where the class can have no slab.
  func testWithoutRoomForASlabALargerBlockDoes() throws {
    let (heap, blocks) = try heapOfPairs(with: 2400)
    try heap.deallocate(blocks[0])
    let capacity = try heap.usableSize(of: blocks[1])
    let p = try heap.allocate(byteCount: 2100, owner: OwnerToken(rawValue: 5))
    XCTAssertEqual(p, blocks[0])
    XCTAssertEqual(try heap.usableSize(of: p), capacity)
    XCTAssertEqual(try heap.info(of: p).length, 2100)
    XCTAssertEqual(try heap.verify().problems, [])
    let again = try reopened(heap)
    XCTAssertEqual(try again.info(of: p).owner, OwnerToken(rawValue: 5))
    XCTAssertEqual(try again.verify().problems, [])
    try heap.deallocate(p)
  }

  /// Sizes of three decades in a heap that is more than half full: no allocation fails for want of room in one piece.
  /// (Without the two ways above, each of these seeds fails.)
  func testMoreThanHalfFullServesAllSizes() throws {
    for seed: UInt64 in 1...4 {
      let heap = try makeHeap(size: 4 << 20)
      var random = SplitMix(seed: seed)
      func size() -> Int {
        let shift = Int.random(in: 0..<8, using: &random)
        return Int.random(in: 16 << shift..<32 << shift, using: &random)
      }
      var slots: [Offset?] = Array(repeating: nil, count: 3900)
      var live = 0
      for _ in 0..<60_000 {
        let i = Int.random(in: 0..<slots.count, using: &random)
        if let p = slots[i] {
          live -= try heap.info(of: p).length
          try heap.deallocate(p)
          slots[i] = nil
        }
        let n = live < (4 << 20) * 58 / 100 ? size() : 16
        slots[i] = try heap.allocate(byteCount: n)
        live += n
      }
      XCTAssertEqual(try heap.verify().problems, [])
    }
  }

  /// A large object takes the whole of a run that is little larger, and may grow into it.
  func testALargeObjectLeavesNoSliver() throws {
    let heap = try makeHeap(size: 256 << 10)
    let first = try heap.allocate(byteCount: 17 << 10)
    let wall = try heap.allocate(byteCount: 9 << 10)
    try heap.deallocate(first)
    let p = try heap.allocate(byteCount: 16 << 10)
    XCTAssertEqual(p, first)
    XCTAssertEqual(try heap.usableSize(of: p), 17 << 10)
    XCTAssertEqual(try heap.reallocate(p, byteCount: 17 << 10), p)
    XCTAssertEqual(try heap.reallocate(p, byteCount: 16 << 10), p)
    XCTAssertEqual(try reopened(heap).usableSize(of: p), 17 << 10)
    try heap.deallocate(p)
    // Two units more than an eighth: that would be waste.
    let q = try heap.allocate(byteCount: 14 << 10)
    XCTAssertEqual(try heap.usableSize(of: q), 14 << 10)
    try heap.deallocate(wall)
    try heap.deallocate(q)
    XCTAssertEqual(try heap.verify().problems, [])
  }

  /// What has rested of one size serves another before the heap grows.
  func testRestedBlocksOfOneSizeServeAnother() throws {
    let heap = try makeHeap(
      size: 1 << 20, maximumSize: 64 << 20, quarantine: .quarantine(.milliseconds(200)))
    heap.setTime(1 << 30)
    var blocks: [Offset] = []
    while heap.statistics.totalBytes <= 1 << 20 { blocks.append(try heap.allocate(byteCount: 40)) }
    let size = heap.statistics.totalBytes
    for p in blocks { try heap.deallocate(p) }
    heap.setTime(2 << 30)
    var taken = 0
    while taken < 700 << 10 {
      _ = try heap.allocate(byteCount: 3000)
      taken += 3072
    }
    XCTAssertEqual(heap.statistics.totalBytes, size)
    XCTAssertEqual(try heap.verify().problems, [])
  }

  func testFullAndEmptyAgain() throws {
    for policy in [QuarantinePolicy.none, .quarantine(.seconds(100))] {
      let heap = try makeHeap(size: 512 << 10, quarantine: policy)
      let whole = heap.statistics.largestFreeRun
      XCTAssertGreaterThan(whole, 400 << 10)
      var random = SplitMix(seed: 5)
      for round in 0..<3 {
        var live: [Offset] = []
        var refusals = 0
        while refusals < 20 {
          do throws(NVMError) {
            live.append(
              try heap.allocate(
                byteCount: [16, 100, 1000, 5000, 9000, 40_000].randomElement(using: &random)!))
          } catch {
            XCTAssertEqual(error.code, .outOfSpace)
            refusals += 1
          }
        }
        XCTAssertEqual(Set(live).count, live.count)
        XCTAssertEqual(try heap.blocks.count, live.count)
        for p in live.shuffled(using: &random) { try heap.deallocate(p) }
        // Everything is free: one block can have it all.
        let p = try heap.allocate(byteCount: whole)
        XCTAssertEqual(try heap.blocks.count, 1, "round \(round)")
        try heap.deallocate(p)
        XCTAssertEqual(try heap.verify().problems, [])
      }
    }
  }

  func testGrowthMovesTheTable() throws {
    let heap = try makeHeap(size: 64 << 10, maximumSize: 8 << 20)
    XCTAssertEqual(heap.region.size, 64 << 10)
    var live: [Offset: UInt64] = [:]
    var n: UInt64 = 0
    var random = SplitMix(seed: 1)
    while heap.region.size < 6 << 20 {
      let size = [100, 2000, 12_000, 70_000].randomElement(using: &random)!
      let p = try heap.allocate(byteCount: size)
      n += 1
      heap.region.store(n, at: p)
      live[p] = n
    }
    XCTAssertEqual(try heap.verify().problems, [])
    for again in [heap, try reopened(heap)] {
      XCTAssertEqual(Set(try again.blocks.map(\.payload)), Set(live.keys))
      for (p, n) in live { XCTAssertEqual(again.region.load(p), n) }
    }
    let again = try reopened(heap)
    for p in live.keys { try again.deallocate(p) }
    // The tables that were left behind are free again, but for the newest.
    let free = again.statistics
    XCTAssertEqual(free.liveBlocks, 0)
    let p = try again.allocate(byteCount: free.totalBytes * 2 / 5)
    try again.deallocate(p)
    XCTAssertEqual(try again.verify().problems, [])
  }

  func testGrowthStopsAtTheLimit() throws {
    let heap = try makeHeap(size: 64 << 10, maximumSize: 256 << 10)
    var count = 0
    while (try? heap.allocate(byteCount: 1000)) != nil { count += 1 }
    XCTAssertLessThanOrEqual(heap.region.size, 256 << 10)
    XCTAssertGreaterThan(count, 150)
    assertThrows(.outOfSpace, try heap.allocate(byteCount: 20_000))
    XCTAssertEqual(try heap.verify().problems, [])
    XCTAssertEqual(try reopened(heap).blocks.count, count)
  }

  func testVeryLargeObjects() throws {
    let heap = try makeHeap(size: 1 << 20, maximumSize: 8 << 30, geometry: HeapGeometry())
    let sizes = [100 << 20, 777 << 20, 3 << 30]
    var all: [Offset] = []
    for size in sizes {
      let p = try heap.allocate(byteCount: size, tag: BlockTag(rawValue: 1))
      heap.region.store(7, at: p)
      heap.region.store(8, at: p + (size - 8))
      XCTAssertEqual(try heap.info(of: p).length, size)
      all.append(p)
    }
    XCTAssertEqual(try heap.blocks.map(\.length).sorted(), sizes)
    try heap.deallocate(all[1])
    assertThrows(.doubleFree, try heap.deallocate(all[1]))
    XCTAssertEqual(try heap.verify().problems, [])
    assertThrows(.outOfSpace, try heap.allocate(byteCount: 8 << 30))
  }

  /// After opening, the first allocation reads a few slabs, however many there are; the rest is read when asked for.
  func testTheFirstAllocationDoesNotScanAll() throws {
    let heap = try makeHeap(size: 4 << 20)
    for _ in 0..<10_000 { _ = try heap.allocate(byteCount: 200) }
    let again = try reopened(heap)
    func scanned() -> Int { (0..<4096).count { again.isScanned(unit: $0) } }
    XCTAssertEqual(scanned(), 0)
    let p = try again.allocate(byteCount: 200)
    XCTAssertLessThan(scanned(), 60)
    var last = (0, 0)
    try again.scanSlabs { last = ($0, $1) }
    XCTAssertEqual(last.0, last.1)
    XCTAssertGreaterThan(scanned(), 2000)
    XCTAssertEqual(try again.blocks.count, 10_001)
    try again.deallocate(p)
    XCTAssertEqual(try again.verify().problems, [])
    // Old room is found when there is no other: every second block is free, and the heap is full.
    let tight = try makeHeap(size: 1 << 20)
    var all: [Offset] = []
    while let p = try? tight.allocate(byteCount: 200) { all.append(p) }
    for (i, p) in all.enumerated() where i % 2 == 0 { try tight.deallocate(p) }
    let full = try reopened(tight)
    var n = 0
    while (try? full.allocate(byteCount: 200)) != nil { n += 1 }
    XCTAssertEqual(n, (all.count + 1) / 2)
  }

  func testStatisticsAddUp() throws {
    let heap = try makeHeap(size: 2 << 20, quarantine: .quarantine(.seconds(100)))
    var live: [Offset] = []
    for i in 0..<1000 { live.append(try heap.allocate(byteCount: i % 100 == 0 ? 10_000 : i % 300)) }
    for p in live.prefix(400) { try heap.deallocate(p) }
    for h in [heap, try reopened(heap)] {
      let s = h.statistics
      XCTAssertEqual(s.liveBlocks, 600)
      XCTAssertEqual(s.largeObjects, 6)
      XCTAssertEqual(s.largeObjectBytes, 60_000)
      XCTAssertEqual(s.quarantinedBlocks, h === heap ? 400 : 0)
      XCTAssertEqual(s.damagedBytes, 0)
      let sum = s.liveBytes + s.freeBytes + s.quarantinedBytes + s.metadataBytes
      XCTAssertLessThanOrEqual(sum, s.totalBytes)
      XCTAssertGreaterThan(sum, s.totalBytes * 85 / 100)
      XCTAssertGreaterThanOrEqual(s.fragmentation, 0)
      XCTAssertLessThan(s.fragmentation, 1)
    }
  }
}
