import NVMRegion
import NVMalloc
import XCTest

/// Allocation and freeing under persist groups.
final class GroupTests: XCTestCase {
  func testNoFenceOfTheirOwn() throws {
    let heap = try makeHeap(size: 4 << 20, geometry: HeapGeometry())
    let region = heap.region
    // A slab and its first headers are made durable once.
    let first = try heap.allocate(byteCount: 100)
    let group = region.makePersistGroup()
    let fences = region.counters.fences
    var blocks: [Offset] = []
    for _ in 0..<20 {
      blocks.append(try heap.allocate(byteCount: 100, tag: BlockTag(rawValue: 9), in: group))
    }
    try heap.deallocate(first, in: group)
    XCTAssertEqual(region.counters.fences, fences)
    XCTAssertFalse(group.isPersisted)
    XCTAssertEqual(group.outstandingLines, 21, "a header each")
    try group.wait()
    XCTAssertEqual(region.counters.fences, fences + 1)
    XCTAssertTrue(group.isPersisted)
    for block in blocks { XCTAssertEqual(try heap.info(of: block).tag, BlockTag(rawValue: 9)) }
    XCTAssertThrowsError(try heap.info(of: first))
    // A large block's header stands in the extent table.
    let large = try heap.allocate(byteCount: 300 << 10, in: group)
    XCTAssertFalse(group.isPersisted)
    try group.wait()
    try heap.deallocate(large, in: group)
    XCTAssertFalse(group.isPersisted)
    XCTAssertThrowsError(try heap.deallocate(large, in: group))
    try region.fence()
    XCTAssertTrue(group.isPersisted)
    XCTAssertTrue(try heap.verify().isClean)
  }

  func testAGroupOfAnotherRegionIsRefused() throws {
    let heap = try makeHeap()
    let other = try makeHeap()
    let group = other.region.makePersistGroup()
    let block = try heap.allocate(byteCount: 10)
    XCTAssertThrowsError(try heap.allocate(byteCount: 10, in: group)) {
      XCTAssertEqual(($0 as? NVMError)?.code, .invalidArgument)
    }
    XCTAssertThrowsError(try heap.deallocate(block, in: group)) {
      XCTAssertEqual(($0 as? NVMError)?.code, .invalidArgument)
    }
    XCTAssertEqual(try heap.info(of: block).length, 10)
  }
}
