import NVMRegion
import NVMalloc
import XCTest

/// A heap of one's own, with a linked list in it.
final class HeapAPITests: XCTestCase {
  struct Node: BitwiseCopyable {
    var next: UInt64
    var value: Int64
  }
  static let tag = BlockTag(rawValue: 1)

  func testLinkedListSurvives() throws {
    try withPath { path in
      let options = RegionOptions(media: .emulated)
      do {
        let region = try PersistentRegion.create(at: path, size: 4 << 20, options: options)
        let heap = try PersistentHeap.format(region)
        let head = try heap.rootLink(named: "list")
        for value in 1...100 {
          try heap.publish { (publication) throws(NVMError) in
            let node = try publication.reserve(byteCount: MemoryLayout<Node>.size, tag: Self.tag)
            let old = region.load(head)
            region.write(Node(next: old, value: Int64(value)), at: PersistentPointer<Node>(node))
            region.flush(node, count: MemoryLayout<Node>.size)
            try publication.set(node.rawValue, at: head)
          }
        }
        heap.close()
        try region.close()
      }
      let region = try PersistentRegion.open(at: path, options: options)
      let heap = try PersistentHeap.open(region)
      var next = try XCTUnwrap(heap.root(named: "list")).rawValue
      var values: [Int64] = []
      while next != 0 {
        let node = region.load(PersistentPointer<Node>(Offset(rawValue: next)))
        values.append(node.value)
        next = node.next
      }
      XCTAssertEqual(values, (1...100).reversed())
      var blocks = 0
      try heap.forEachBlock(tag: Self.tag) { (_) throws(NVMError) in blocks += 1 }
      XCTAssertEqual(blocks, 100)
      let plain = try heap.allocate(byteCount: 1000, tag: Self.tag, owner: OwnerToken(rawValue: 5))
      XCTAssertGreaterThanOrEqual(try heap.usableSize(of: plain), 1000)
      try heap.deallocate(plain)
      XCTAssertThrowsError(try heap.deallocate(plain)) {
        XCTAssertEqual(($0 as? NVMError)?.code, .doubleFree)
      }
      XCTAssert(try heap.verify().isClean)
      XCTAssertGreaterThan(heap.statistics.liveBlocks, 0)
    }
  }
}
