import NVMRegion
import NVMalloc
import XCTest

final class AllocationTests: XCTestCase {
  func testBlocksSurviveReopening() throws {
    let heap = try makeHeap()
    var expected: [Offset: Int] = [:]
    for size in [0, 1, 16, 47, 48, 49, 100, 500, 1000, 4000, 8176, 8177, 20_000, 100_000] {
      let p = try heap.allocate(byteCount: size, tag: BlockTag(rawValue: 7), owner: OwnerToken(rawValue: 9))
      XCTAssertEqual(p.rawValue & 15, 0)
      XCTAssertGreaterThanOrEqual(try heap.usableSize(of: p), size)
      expected[p] = size
    }
    try heap.setRoot(Offset(77), named: "a")
    for again in [heap, try reopened(heap)] {
      let blocks = try again.blocks
      XCTAssertEqual(Dictionary(uniqueKeysWithValues: blocks.map { ($0.payload, $0.length) }), expected)
      XCTAssert(blocks.allSatisfy { $0.tag.rawValue == 7 && $0.owner.rawValue == 9 && $0.epoch == 1 })
      XCTAssertEqual(try again.root(named: "a"), Offset(77))
      XCTAssertEqual(again.recovery.problems, [])
    }
    for p in expected.keys { try heap.deallocate(p) }
    XCTAssertEqual(try heap.blocks.count, 0)
    for p in expected.keys { assertThrows(.doubleFree, try heap.deallocate(p)) }
    XCTAssertEqual(try reopened(heap).blocks.count, 0)
  }
}
