import NVMRegion
import NVMalloc
import XCTest

/// What has rested goes back to its slabs as space is taken, not all at once, and soon enough that the heap need not grow.
final class SettlingTests: XCTestCase {
  func testSettlingIsInProportion() throws {
    let unit = 16 << 10
    let geometry = HeapGeometry(unitShift: 14, laneCount: 2, laneSize: 512, rootCount: 8)
    let heap = try makeHeap(
      size: 4 << 20, maximumSize: 32 << 20, geometry: geometry,
      quarantine: .quarantine(.milliseconds(200)))
    heap.setTime(1_000_000_000)
    // 128 bytes each: 3 MiB.
    let blocks = try (0..<24_000).map { _ in try heap.allocate(byteCount: 100) }
    // Nothing else is left.
    while case let run = heap.statistics.largestFreeRun, run >= unit {
      _ = try heap.allocate(byteCount: run, alignment: unit)
    }
    let size = heap.region.size
    for block in blocks { try heap.deallocate(block) }
    XCTAssertEqual(heap.statistics.quarantinedBlocks, blocks.count)
    heap.setTime(2_000_000_000)
    // A MiB of others.
    var resting = blocks.count
    var most = 0
    for _ in 0..<512 {
      _ = try heap.allocate(byteCount: 2000)
      let now = heap.statistics.quarantinedBlocks
      most = max(most, resting - now)
      resting = now
    }
    XCTAssertGreaterThan(most, 0)
    // A slab of 64 KiB is as many bytes as 1,024 of the smallest blocks.
    XCTAssertLessThanOrEqual(most, 2 * 1024)
    XCTAssertEqual(heap.region.size, size)
    XCTAssertTrue(try heap.verify().isClean)
  }
}
