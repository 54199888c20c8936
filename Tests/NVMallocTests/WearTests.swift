import Foundation
import NVMRegion
import NVMalloc
import XCTest

/// Wear counted, saved, and spread.
final class WearTests: XCTestCase {
  private func counting(
    size: Int, geometry: HeapGeometry = .tiny, placement: PlacementPolicy = .automatic,
    quarantine: QuarantinePolicy = .none
  ) throws -> PersistentHeap {
    let medium = try LineCountingMedium(maximumSize: size)
    let region = try PersistentRegion.inMemory(image: nil, size: size, maximumSize: size, medium: medium)
    var options = options(geometry, quarantine)
    options.placement = placement
    return try PersistentHeap.format(region, options: options)
  }

  func testEachLineIsCounted() throws {
    let heap = try counting(size: 256 << 10)
    let p = try heap.allocate(byteCount: 100)
    let before = try XCTUnwrap(heap.region.wear)
    try heap.deallocate(p)
    let q = try heap.allocate(byteCount: 30_000)
    try heap.region.persist(q + 640, count: 65)
    let after = try XCTUnwrap(heap.region.wear)
    let block = (p - 16).bytes / 64
    XCTAssertEqual(before.allocations[block], 1)
    XCTAssertEqual(before.allocations[block + 1], 1)
    XCTAssertEqual(before.writes[block], 2, "formatted, allocated")
    XCTAssertEqual(after.writes[block], 3)
    XCTAssertEqual(after.allocations[q.bytes / 64..<q.bytes / 64 + 480], Array(repeating: 1, count: 480)[...])
    XCTAssertEqual(after.writes[q.bytes / 64 + 9..<q.bytes / 64 + 13], [0, 1, 1, 0])
    XCTAssertGreaterThan(after.writes[0], 0, "the region's superblock")
    let counted = heap.region.counters
    XCTAssertEqual(after.writes.reduce(0) { $0 + UInt64($1) }, counted.lines, "every flushed line, wherever")
  }

  func testFigures() {
    let figures = LineWear.figures([0, 2, 4, 0, 6], where: { $0 != Offset(64) })
    XCTAssertEqual(figures.lines, 2)
    XCTAssertEqual(figures.total, 10)
    XCTAssertEqual(figures.maximum, 6)
    XCTAssertEqual(figures.hottest, Offset(256))
    XCTAssertEqual(figures.mean, 5)
    XCTAssertEqual(figures.imbalance, 1.2)
    XCTAssertEqual(figures.variation, 0.2, accuracy: 1e-12)
    XCTAssertEqual(LineWear.figures([0]).imbalance, 0)
  }

  func testCountsLastOverTheLifeOfTheFile() throws {
    let directory = NSTemporaryDirectory() + "wear-\(getpid())-\(UInt32.random(in: 0 ... .max))"
    try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: directory) }
    let path = directory + "/a"
    var options = RegionOptions(media: .emulated)
    options.maximumSize = 8 << 20
    options.countsWear = true
    var region = try PersistentRegion.create(at: path, size: 1 << 20, options: options)
    var heap = try PersistentHeap.format(region)
    let p = try heap.allocate(byteCount: 40)
    let line = p.bytes / 64
    heap.close()
    try region.close()
    // An opening that does not count leaves them, one that ends in a crash too.
    options.countsWear = false
    region = try PersistentRegion.open(at: path, options: options)
    XCTAssertEqual(region.wear?.allocations[line], 1)
    heap = try PersistentHeap.open(region)
    try heap.deallocate(p)
    try region.close()
    options.countsWear = true
    region = try PersistentRegion.open(at: path, options: options)
    heap = try PersistentHeap.open(region)
    XCTAssertEqual(try heap.allocate(byteCount: 40), p)
    XCTAssertEqual(region.wear?.allocations[line], 2)
    region.abandon()
    region = try PersistentRegion.open(at: path, options: options)
    XCTAssertEqual(region.wear?.allocations[line], 1)
    try region.close()
    XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: directory).sorted(), ["a", "a.wear"])
    // A damaged one is no counts at all, and so is that of another file.
    var bytes = try XCTUnwrap(FileManager.default.contents(atPath: path + ".wear"))
    for at in [0, 9, 25, 33, 70, bytes.count - 1] {
      bytes[at] ^= 1
      XCTAssertTrue(FileManager.default.createFile(atPath: path + ".wear", contents: bytes))
      region = try PersistentRegion.open(
        at: path, options: RegionOptions(media: .emulated, access: .readOnly))
      XCTAssertNil(region.wear, "byte \(at)")
      try region.close()
      bytes[at] ^= 1
    }
  }

  /// The same object freed and allocated again and again.
  /// A pipe in the place of the counts is no reason to wait, and a program may go to another directory.
  func testWhateverStandsBeside() throws {
    let directory = NSTemporaryDirectory() + "wear-\(getpid())-\(UInt32.random(in: 0 ... .max))"
    try FileManager.default.createDirectory(atPath: directory + "/b", withIntermediateDirectories: true)
    let before = FileManager.default.currentDirectoryPath
    defer {
      _ = FileManager.default.changeCurrentDirectoryPath(before)
      try? FileManager.default.removeItem(atPath: directory)
    }
    var options = RegionOptions(media: .emulated)
    options.maximumSize = 8 << 20
    options.countsWear = true
    XCTAssertTrue(FileManager.default.changeCurrentDirectoryPath(directory))
    XCTAssertEqual(mkfifo("a.wear", 0o600), 0)
    let region = try PersistentRegion.create(at: "a", size: 1 << 20, options: options)
    try region.persist(region.payloadStart, count: 8)
    XCTAssertTrue(FileManager.default.changeCurrentDirectoryPath(directory + "/b"))
    try region.close()
    XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: "."), [])
    options.countsWear = false
    let again = try PersistentRegion.open(at: directory + "/a", options: options)
    XCTAssertEqual(again.wear?.writes[region.payloadStart.bytes / 64], 1)
    try again.close()
    // More lines than there is memory for, and a file that is as long.
    let file = try XCTUnwrap(fopen(directory + "/a.wear", "r+"))
    var lines = UInt64(1) << 40 - 1
    fseek(file, 24, SEEK_SET)
    XCTAssertEqual(fwrite(&lines, 8, 1, file), 1)
    XCTAssertEqual(fclose(file), 0)
    XCTAssertEqual(truncate(directory + "/a.wear", 64 + Int(lines) * 8), 0)
    for counts in [false, true] {
      options.countsWear = counts
      let next = try PersistentRegion.open(at: directory + "/a", options: options)
      XCTAssertEqual(next.wear == nil, !counts)
      next.abandon()
    }
  }

  func testOneObjectWearsTheWholeHeapEvenly() throws {
    let heap = try counting(
      size: 4 << 20, geometry: HeapGeometry(), quarantine: .quarantine(.milliseconds(200)))
    var now: UInt64 = 1 << 30
    for _ in 0..<400_000 {
      heap.setTime(now)
      now += 10_000
      try heap.deallocate(try heap.allocate(byteCount: 64))
    }
    let wear = try XCTUnwrap(heap.region.wear)
    let data = LineWear.figures(wear.allocations)
    XCTAssertLessThan(data.imbalance, 1.3)
    // Superblocks, tables and marks included.
    XCTAssertLessThan(LineWear.figures(wear.writes).imbalance, 2)
  }

  func testTheLeastAllocatedComesFirst() throws {
    for policy in [QuarantinePolicy.none, .quarantine(.milliseconds(10))] {
      func imbalance(_ placement: PlacementPolicy) throws -> Double {
        let heap = try counting(size: 128 << 10, placement: placement, quarantine: policy)
        var random = SplitMix(seed: 3)
        var now: UInt64 = 1 << 30
        // Long-lived ones hold their blocks for long, so others wear more.
        var live: [Offset] = []
        for _ in 0..<40_000 {
          heap.setTime(now)
          now += 1_000_000
          if live.count < 400 || Bool.random(using: &random) && live.count < 600 {
            live.append(try heap.allocate(byteCount: 40))
          } else {
            // Mostly the young ones go.
            let i = live.count - 1 - min(Int.random(in: 0..<20, using: &random), live.count - 1)
            try heap.deallocate(live.remove(at: i))
          }
        }
        XCTAssertEqual(try heap.verify().problems, [])
        for p in live { try heap.deallocate(p) }
        return LineWear.figures(try XCTUnwrap(heap.region.wear).allocations, where: { $0.bytes > 32 << 10 })
          .variation
      }
      XCTAssertLessThanOrEqual(try imbalance(.leastAllocated), try imbalance(.automatic) + 1e-9, "\(policy)")
    }
  }

  /// No block twice within T, whatever the order of frees, while there is room.
  func testNoBlockTwiceWithinT() throws {
    for size in [40, 3000, 20_000] {
      let heap = try makeHeap(
        size: 4 << 20, geometry: HeapGeometry(), quarantine: .quarantine(.milliseconds(200)))
      var random = SplitMix(seed: 8)
      var now: UInt64 = 1 << 30
      var freed: [Offset: UInt64] = [:]
      var live: [Offset] = []
      var reused = 0
      for _ in 0..<4000 {
        now += UInt64.random(in: 0..<8_000_000, using: &random)
        heap.setTime(now)
        if live.count < 3 || Bool.random(using: &random) && live.count < 12 {
          let p = try heap.allocate(byteCount: size)
          if let then = freed[p] {
            XCTAssertGreaterThanOrEqual(now - then, 200_000_000)
            reused += 1
          }
          live.append(p)
        } else {
          let p = live.remove(at: Int.random(in: 0..<live.count, using: &random))
          try heap.deallocate(p)
          freed[p] = now
        }
      }
      XCTAssertGreaterThan(reused, 500)
    }
  }

  /// With many sizes at rest, each of the larger ones rests up to a quarter of what is live of it.
  func testLargerBlocksRestByWhatIsLive() throws {
    let region = try PersistentRegion.inMemory(
      image: nil, size: 16 << 20, maximumSize: 1 << 30, medium: nil)
    var options = HeapOptions()
    options.quarantine = .quarantine(.seconds(10))
    let heap = try PersistentHeap.format(region, options: options)
    heap.setTime(1 << 30)
    var random = SplitMix(seed: 4)
    var live: [(Offset, Int)] = []
    var bytes = 0
    for i in 0..<60_000 {
      if i >= 4000 {
        let at = Int.random(in: 0..<live.count, using: &random)
        live.swapAt(at, live.count - 1)
        let (p, size) = live.removeLast()
        try heap.deallocate(p)
        bytes -= size
      }
      let size = Int.random(in: 2000...16_000, using: &random)
      live.append((try heap.allocate(byteCount: size), size))
      bytes += size
    }
    let statistics = heap.statistics
    // A quarter of the limit, and then a MiB for each of 26 classes; all that was freed is 500 MiB.
    XCTAssertLessThan(statistics.quarantinedBytes, 42 << 20)
    XCTAssertLessThan(statistics.totalBytes - statistics.freeExtentBytes, bytes * 3 / 2 + 42 << 20)
    XCTAssertGreaterThan(statistics.quarantinedBytes, 4 << 20)
  }

  /// Who wants no limit says so by the largest number: also where more is freed than was allocated in this opening.
  func testAnyLimit() throws {
    for limit in [Int.max, Int.max / 2, 0, -1, Int.min] {
      let region = try PersistentRegion.inMemory(
        image: nil, size: 2 << 20, maximumSize: 64 << 20, medium: nil)
      var options = HeapOptions()
      options.quarantine = .quarantine(.seconds(10))
      options.quarantineLimit = limit
      var heap = try PersistentHeap.format(region, options: options)
      let blocks = try (0..<12_000).map { _ in try heap.allocate(byteCount: 1100, durability: .deferred) }
      heap.close()
      heap = try PersistentHeap.open(region, options: options)
      heap.setTime(1 << 30)
      try heap.deallocate(contentsOf: blocks)
      for _ in 0..<200 { try heap.deallocate(try heap.allocate(byteCount: 1100)) }
      XCTAssertEqual(heap.statistics.liveBlocks, 0)
      if limit > 0 { XCTAssertGreaterThanOrEqual(heap.statistics.quarantinedBlocks, 12_000, "\(limit)") }
    }
  }

  /// Frees of one moment share a reading of the clock: they may rest longer for it, never less, and all come back.
  func testFreesOfOneMomentRest() throws {
    let heap = try makeHeap(size: 1 << 20, quarantine: .quarantine(.milliseconds(200)))
    let start: UInt64 = 1 << 30
    heap.setTime(start)
    let blocks = try (0..<100).map { _ in try heap.allocate(byteCount: 40) }
    for p in blocks { try heap.deallocate(p) }
    heap.setTime(start + 190_000_000)
    for _ in 0..<300 { XCTAssertFalse(blocks.contains(try heap.allocate(byteCount: 40))) }
    heap.setTime(start + 420_000_000)
    var again: Set<Offset> = []
    for _ in 0..<200 { again.insert(try heap.allocate(byteCount: 40)) }
    XCTAssertTrue(again.isSuperset(of: blocks))
  }

  /// Resting blocks beyond the limit are used again instead of growing the heap, the oldest first.
  func testTheQuarantineIsBounded() throws {
    // Those beyond a KiB rest up to an eighth of what small blocks may.
    for (size, least, most) in [
      (900, 3 << 20, 12 << 20), (3000, 1 << 18, 6 << 20), (5000, 1 << 18, 6 << 20),
      (200_000, 1 << 18, 6 << 20),
    ] {
      let region = try PersistentRegion.inMemory(
        image: nil, size: 2 << 20, maximumSize: 256 << 20, medium: nil)
      var options = HeapOptions()
      options.quarantine = .quarantine(.seconds(10))
      options.quarantineLimit = 4 << 20
      options.growthIncrement = 1 << 20
      let heap = try PersistentHeap.format(region, options: options)
      heap.setTime(1 << 30)
      var last: Offset?
      for _ in 0..<20_000 {
        let p = try heap.allocate(byteCount: size)
        XCTAssertNotEqual(p, last)
        last = p
        try heap.deallocate(p)
      }
      XCTAssertLessThan(heap.statistics.totalBytes, most, "\(size)")
      XCTAssertGreaterThan(heap.statistics.quarantinedBytes, least, "\(size)")
    }
  }
}
