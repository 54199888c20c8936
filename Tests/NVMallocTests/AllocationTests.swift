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
      XCTAssertEqual(again.recovery.problems.count, 0)
    }
    for p in expected.keys { try heap.deallocate(p) }
    XCTAssertEqual(try heap.blocks.count, 0)
    for p in expected.keys { assertThrows(.doubleFree, try heap.deallocate(p)) }
    XCTAssertEqual(try reopened(heap).blocks.count, 0)
  }

  func testEverySizeHasRoomAndLittleWaste() throws {
    let heap = try makeHeap(size: 4 << 20, geometry: HeapGeometry())
    for size in stride(from: 1, to: 200_000, by: 613) {
      let p = try heap.allocate(byteCount: size)
      let info = try heap.info(of: p)
      XCTAssertEqual(info.length, size)
      XCTAssertGreaterThanOrEqual(info.capacity, size)
      if size > 512 {
        XCTAssertLessThanOrEqual(Double(info.capacity), Double(size + 16) * 1.126 + 64, "\(size)")
      }
      try heap.deallocate(p)
    }
  }

  func testAlignments() throws {
    let heap = try makeHeap(size: 8 << 20, maximumSize: 64 << 20, geometry: HeapGeometry())
    var live: [Offset] = []
    for shift in 0...21 {
      for size in [0, 1, 64, 100, 5000, 40_000, 300_000] {
        let p = try heap.allocate(byteCount: size, alignment: 1 << shift)
        XCTAssertEqual(p.rawValue & UInt64((1 << shift) - 1), 0, "\(shift) \(size)")
        XCTAssertEqual(try heap.info(of: p).length, size)
        heap.region.fill(p, count: size, with: UInt8(shift))
        live.append(p)
      }
    }
    XCTAssertEqual(Set(live).count, live.count)
    XCTAssertEqual(try heap.verify().problems, [])
    let again = try reopened(heap)
    XCTAssertEqual(Set(try again.blocks.map(\.payload)), Set(live))
    for p in live { try again.deallocate(p) }
  }

  func testWrongOffsetsAreRefusedAndNothingChanges() throws {
    let heap = try makeHeap()
    let small = try heap.allocate(byteCount: 200)
    let large = try heap.allocate(byteCount: 50_000)
    let before = try heap.blocks
    for p in [
      Offset.null, Offset(8), small + 8, small + 16, small - 16, small + 1, large + 1, large + 1024,
      large - 1024,
      heap.region.end, heap.region.end + 1 << 40, Offset(rawValue: .max), Offset(rawValue: 1 << 63),
      heap.region.payloadStart, Offset(heap.region.size - 64),
    ] where p != small && p != large {
      XCTAssertThrowsError(try heap.deallocate(p), "\(p)") { error in
        let code = (error as? NVMError)?.code
        XCTAssert(code == .foreignOffset || code == .doubleFree, "\(p): \(error)")
      }
      XCTAssertThrowsError(try heap.info(of: p), "\(p)")
    }
    // A neighbour in the slab that was never allocated.
    assertThrows(.doubleFree, try heap.deallocate(small + 256))
    XCTAssertEqual(try heap.blocks, before)
    XCTAssertEqual(try heap.verify().problems, [])
  }

  func testWrongArgumentsAreRefused() throws {
    let heap = try makeHeap()
    assertThrows(.invalidArgument, try heap.allocate(byteCount: -1))
    assertThrows(.invalidArgument, try heap.allocate(byteCount: 8, alignment: 24))
    assertThrows(.invalidArgument, try heap.allocate(byteCount: 8, alignment: 0))
    assertThrows(.invalidArgument, try heap.allocate(byteCount: 8, owner: OwnerToken(rawValue: 1 << 20)))
    for size in [1 << 30, 1 << 50, Int.max, Int.max - 15] {
      assertThrows(.outOfSpace, try heap.allocate(byteCount: size))
      assertThrows(.outOfSpace, try heap.reserve(byteCount: size))
    }
    assertThrows(.outOfSpace, try heap.allocate(byteCount: 8, alignment: 1 << 62))
    assertThrows(.invalidArgument, try heap.reallocate(try heap.allocate(byteCount: 8), byteCount: -8))
  }

  func testOneFencePerOperation() throws {
    for size in [8, 100, 3000, 30_000] {
      let heap = try makeHeap(size: 1 << 20)
      // The first use of a class formats; the steady state is what counts.
      for _ in 0..<3 { try heap.deallocate(try heap.allocate(byteCount: size)) }
      let before = heap.region.threadCounters
      let p = try heap.allocate(byteCount: size)
      let between = heap.region.threadCounters
      XCTAssertEqual((between - before).fences, 1, "\(size)")
      if size < 8192 {
        XCTAssertEqual((between - before).orders, 0)
        XCTAssertEqual((between - before).lines, 1)
      }
      try heap.deallocate(p)
      let after = heap.region.threadCounters
      XCTAssertEqual((after - between).fences, 1)
      XCTAssertEqual((after - between).orders, 0)
      XCTAssertEqual((after - between).lines, 1)
      let q = try heap.allocate(byteCount: size, durability: .deferred)
      try heap.deallocate(q, durability: .deferred)
      XCTAssertEqual((heap.region.threadCounters - after).fences, 0)
      // A reservation leaves the medium alone.
      let more = heap.region.threadCounters
      heap.cancel(try heap.reserve(byteCount: size))
      XCTAssertEqual((heap.region.threadCounters - more).fences, 0)
      if size < 8192 { XCTAssertEqual((heap.region.threadCounters - more).bytes, 0) }
    }
  }

  func testReallocateKeepsBytesTagAndOwner() throws {
    let heap = try makeHeap(size: 4 << 20)
    var p = try heap.allocate(
      byteCount: 100, alignment: 64, tag: BlockTag(rawValue: 3), owner: OwnerToken(rawValue: 4))
    for i in 0..<12 { heap.region.store(UInt64(i), at: p + 8 * i) }
    for size in [101, 96, 500, 5000, 9000, 9100, 100_000, 700, 97] {
      p = try heap.reallocate(p, byteCount: size)
      let info = try heap.info(of: p)
      XCTAssertEqual(info.length, size)
      XCTAssertEqual([Int(info.tag.rawValue), Int(info.owner.rawValue)], [3, 4])
      for i in 0..<12 { XCTAssertEqual(heap.region.load(p + 8 * i), UInt64(i), "\(size)") }
      XCTAssertEqual(try heap.blocks.count, 1)
      XCTAssertEqual(try heap.verify().problems, [])
    }
    assertThrows(.outOfSpace, try heap.reallocate(p, byteCount: 1 << 30))
    XCTAssertEqual(try heap.info(of: p).length, 97)
  }

  func testEnumerationByTagOwnerAndSize() throws {
    let heap = try makeHeap(size: 4 << 20)
    var expected: [[Int]: Set<Offset>] = [:]
    for i in 0..<600 {
      let size = i % 50 == 0 ? 20_000 : i
      let p = try heap.allocate(
        byteCount: size, tag: BlockTag(rawValue: UInt16(i % 3)), owner: OwnerToken(rawValue: UInt32(i % 5)))
      expected[[i % 3, i % 5], default: []].insert(p)
    }
    for (key, set) in expected {
      var found: Set<Offset> = []
      try heap.forEachBlock(
        tag: BlockTag(rawValue: UInt16(key[0])), owner: OwnerToken(rawValue: UInt32(key[1]))
      ) {
        XCTAssert(found.insert($0.payload).inserted)
      }
      XCTAssertEqual(found, set)
    }
    var large = 0
    try heap.forEachBlock(includingSmall: false) { _ in large += 1 }
    XCTAssertEqual(large, 12)
    // Freeing what is enumerated, while it is enumerated.
    try heap.forEachBlock { (info) throws(NVMError) in try heap.deallocate(info.payload) }
    XCTAssertEqual(try heap.blocks.count, 0)
    // An error of the body ends it.
    _ = try heap.allocate(byteCount: 1)
    assertThrows(
      .unsupported,
      try heap.forEachBlock { (_) throws(NVMError) in throw NVMError(code: .unsupported, message: "") })
  }

  func testClosedAndReadOnlyHeapsRefuse() throws {
    let heap = try makeHeap()
    let p = try heap.allocate(byteCount: 10)
    let image = UnsafeRawBufferPointer(start: heap.region.pointer(to: .null), count: heap.region.size)
    let region = try PersistentRegion.inMemory(
      image: image, size: image.count, maximumSize: image.count, medium: nil, access: .readOnly)
    let reader = try PersistentHeap.open(region)
    XCTAssertEqual(try reader.info(of: p).length, 10)
    assertThrows(.readOnly, try reader.allocate(byteCount: 1))
    assertThrows(.readOnly, try reader.deallocate(p))
    assertThrows(.readOnly, try reader.setRoot(p, named: "x"))
    assertThrows(.readOnly, try reader.publish { _ in })
    reader.close()
    heap.close()
    heap.close()
    assertThrows(.closed, try heap.allocate(byteCount: 1))
    assertThrows(.closed, try heap.info(of: p))
    try heap.region.close()
    assertThrows(.closed, try heap.deallocate(p))
  }

  /// Two heaps on one region would hand out the same blocks.
  func testASecondHeapIsRefused() throws {
    let heap = try makeHeap()
    let region = heap.region
    let p = try heap.allocate(byteCount: 40)
    assertThrows(.locked, try PersistentHeap.open(region))
    assertThrows(.locked, try PersistentHeap.repair(region))
    // The first goes on.
    try heap.deallocate(p)
    heap.close()
    heap.close()
    // What could not be opened leaves nothing behind, and neither does a heap that is let go.
    let root = region.load(region.payloadStart)
    for copy in 0..<2 { region.store(0, at: region.payloadStart + copy * 4096) }
    assertThrows(.corrupt, try PersistentHeap.open(region))
    for copy in 0..<2 { region.store(root, at: region.payloadStart + copy * 4096) }
    do {
      let next = try PersistentHeap.open(region, options: options())
      assertThrows(.locked, try PersistentHeap.open(region))
      XCTAssertEqual(try next.verify().problems, [])
    }
    XCTAssertEqual(try PersistentHeap.open(region, options: options()).statistics.liveBlocks, 0)
    // A heap that was closed before has nothing to give back.
    let last = try PersistentHeap.open(region)
    heap.close()
    assertThrows(.locked, try PersistentHeap.open(region))
    last.close()
  }

  func testRoots() throws {
    let heap = try makeHeap()
    XCTAssertNil(try heap.root(named: "a"))
    assertThrows(.notFound, try heap.rootLink(named: "a", createIfMissing: false))
    assertThrows(.notFound, try heap.removeRoot(named: "a"))
    assertThrows(.invalidArgument, try heap.setRoot(.null, named: ""))
    assertThrows(.invalidArgument, try heap.setRoot(.null, named: String(repeating: "x", count: 49)))
    for i in 0..<8 { try heap.setRoot(Offset(i), named: "r\(i)" + String(repeating: "é", count: 20)) }
    assertThrows(.outOfSpace, try heap.setRoot(.null, named: "one too many"))
    try heap.removeRoot(named: heap.rootNames[3])
    try heap.setRoot(Offset(99), named: "new")
    let again = try reopened(heap)
    XCTAssertEqual(again.rootNames, heap.rootNames)
    XCTAssertEqual(try again.root(named: "new"), Offset(99))
    XCTAssertEqual(again.rootNames.count, 8)
    XCTAssertEqual(try again.verify().roots, 8)
  }

  func testFormatAndOpenRefuse() throws {
    let region = try PersistentRegion.inMemory(image: nil, size: 1 << 20, maximumSize: 1 << 20, medium: nil)
    assertThrows(.notARegion, try PersistentHeap.open(region))
    _ = try PersistentHeap.format(region)
    assertThrows(.alreadyExists, try PersistentHeap.format(region))
    let tiny = try PersistentRegion.inMemory(image: nil, size: 16384, maximumSize: 16384, medium: nil)
    assertThrows(.outOfSpace, try PersistentHeap.format(tiny))
    assertThrows(.notARegion, try PersistentHeap.open(tiny))
  }
}
