import NVMRegion
import NVMalloc
import XCTest

final class PublishTests: XCTestCase {
  func testPlaceAndRemove() throws {
    let heap = try makeHeap()
    let link = try heap.rootLink(named: "head")
    for size in [8, 500, 20_000] {
      let p = try heap.place(byteCount: size, tag: BlockTag(rawValue: 2), into: link) {
        heap.region.store(5, at: $0)
      }
      XCTAssertEqual(heap.region.load(link), p.rawValue)
      XCTAssertEqual(try heap.info(of: p).length, size)
      assertThrows(.invalidArgument, try heap.place(byteCount: 8, into: link) { _ in })
      XCTAssertEqual(try heap.blocks.count, 1)
      try heap.remove(from: link)
      XCTAssertEqual(heap.region.load(link), 0)
      XCTAssertEqual(try heap.blocks.count, 0)
      assertThrows(.invalidArgument, try heap.remove(from: link))
    }
    for bad in [Offset.null, link + 4, heap.region.end, Offset(rawValue: .max - 7), heap.region.payloadStart]
    {
      assertThrows(.invalidArgument, try heap.place(byteCount: 8, into: bad) { _ in })
      assertThrows(.invalidArgument, try heap.remove(from: bad))
    }
    // A failing initialiser leaves nothing.
    assertThrows(
      .unsupported,
      try heap.place(byteCount: 8, into: link) { (_) throws(NVMError) in
        throw NVMError(code: .unsupported, message: "")
      })
    XCTAssertEqual(try heap.blocks.count, 0)
    XCTAssertEqual(heap.region.load(link), 0)
    // A link to something that is no block.
    try heap.setRoot(Offset(12_345 & ~7), named: "head")
    XCTAssertThrowsError(try heap.remove(from: link))
    XCTAssertNotEqual(heap.region.load(link), 0)
  }

  func testTypedList() throws {
    struct Node: BitwiseCopyable {
      var value: Int
      var next: PersistentPointer<Node>
    }
    let heap = try makeHeap()
    let head = PersistentPointer<PersistentPointer<Node>>(try heap.rootLink(named: "list"))
    var link = head
    var last = head
    for i in 0..<10 {
      last = link
      let p = try heap.place(Node(value: i, next: .null), into: link)
      link = PersistentPointer(p.offset + MemoryLayout<Node>.offset(of: \.next)!)
    }
    let again = try reopened(heap)
    var at: PersistentPointer<Node> = again.region.load(head)
    var values: [Int] = []
    while !at.isNull {
      let node = again.region.load(at)
      values.append(node.value)
      at = node.next
    }
    XCTAssertEqual(values, Array(0..<10))
    try again.remove(from: last)
    XCTAssertEqual(try again.blocks.count, 9)
  }

  func testManyActionsAreOneStep() throws {
    for count in [0, 1, 2, 3, 10, 30, 500] {
      let heap = try makeHeap(size: 4 << 20)
      let table = try heap.allocate(byteCount: 8 * 512)
      let old = try (0..<count).map { _ in try heap.allocate(byteCount: 60) }
      var new: [Offset] = []
      try heap.publish { p throws(NVMError) in
        for i in 0..<count {
          let q = try p.reserve(byteCount: i % 7 == 3 ? 9000 : 50)
          new.append(q)
          try p.deallocate(old[i])
          try p.set(q.rawValue, at: table + 8 * i)
        }
      }
      for h in [heap, try reopened(heap)] {
        XCTAssertEqual(Set(try h.blocks.map(\.payload)), Set(new + [table]), "\(count)")
        for i in 0..<count { XCTAssertEqual(h.region.load(table + 8 * i), new[i].rawValue) }
        XCTAssertEqual(try h.verify().problems, [])
      }
      for p in old { XCTAssertThrowsError(try heap.deallocate(p)) }
      for p in new { try heap.deallocate(p) }
    }
  }

  func testThrowingBodyChangesNothing() throws {
    let heap = try makeHeap()
    let block = try heap.allocate(byteCount: 64)
    let large = try heap.allocate(byteCount: 10_000)
    heap.region.store(3, at: block)
    let free = heap.statistics.liveBlocks
    assertThrows(
      .unsupported,
      try heap.publish { p throws(NVMError) in
        _ = try p.reserve(byteCount: 100)
        _ = try p.reserve(byteCount: 20_000)
        try p.deallocate(block)
        try p.deallocate(large)
        try p.set(9, at: block)
        // A block is freed once, within a step too.
        assertThrows(.doubleFree, try heap.deallocate(block))
        assertThrows(.doubleFree, try heap.deallocate(large))
        throw NVMError(code: .unsupported, message: "")
      })
    XCTAssertEqual(heap.region.load(block), 3)
    XCTAssertEqual(heap.statistics.liveBlocks, free)
    XCTAssertEqual(try heap.verify().problems, [])
    try heap.deallocate(block)
    try heap.deallocate(large)
  }

  func testReservationsAcrossSteps() throws {
    let heap = try makeHeap()
    let link = try heap.rootLink(named: "x")
    let kept = try heap.reserve(byteCount: 100, tag: BlockTag(rawValue: 5))
    let dropped = try heap.reserve(byteCount: 100)
    XCTAssertEqual(try heap.blocks.count, 0)
    assertThrows(.doubleFree, try heap.deallocate(kept.payload))
    XCTAssertEqual(try reopened(heap).blocks.count, 0)
    heap.cancel(dropped)
    try heap.publish { p throws(NVMError) in
      p.use(kept)
      try p.set(1, at: link)
      try p.set(kept.payload.rawValue, at: link)  // the last one counts
    }
    XCTAssertEqual(try heap.root(named: "x"), kept.payload)
    XCTAssertEqual(try reopened(heap).blocks.map(\.tag.rawValue), [5])
  }

  func testFencesOfAStep() throws {
    let heap = try makeHeap(size: 1 << 20, geometry: HeapGeometry())
    let link = try heap.rootLink(named: "x")
    try heap.place(byteCount: 40, into: link) { _ in }
    try heap.remove(from: link)
    let before = heap.region.threadCounters
    try heap.place(byteCount: 40, into: link) { heap.region.store(1, at: $0) }
    let placed = heap.region.threadCounters - before
    XCTAssertEqual(placed.fences, 1)
    XCTAssertEqual(placed.orders, 2)
    let removing = heap.region.threadCounters
    try heap.remove(from: link)
    let removed = heap.region.threadCounters - removing
    XCTAssertEqual(removed.fences, 1)
    XCTAssertEqual(removed.orders, 2)
    // What the initialiser flushes elsewhere comes first, and so does a payload too long to be hashed.
    for (size, flushes) in [(40, true), (2000, false)] {
      let other = try heap.allocate(byteCount: 64)
      try heap.place(byteCount: size, into: link) { _ in }
      try heap.remove(from: link)
      let start = heap.region.threadCounters
      try heap.place(byteCount: size, into: link) { at in
        heap.region.store(1, at: other)
        if flushes { heap.region.flush(other, count: 8) }
      }
      XCTAssertEqual((heap.region.threadCounters - start).orders, 3)
      try heap.remove(from: link)
    }
    let middle = heap.region.threadCounters
    try heap.publish { p throws(NVMError) in try p.set(0, at: link + 0) }
    let single = heap.region.threadCounters - middle
    XCTAssertEqual(single.fences, 1)
    XCTAssertEqual(single.orders, 0)
    XCTAssertEqual(single.lines, 1)
  }

  /// Lanes wrap many times; every step is there.
  func testLanesWrap() throws {
    let heap = try makeHeap()
    let table = try heap.allocate(byteCount: 8 * 40)
    for round in 1...200 as ClosedRange<UInt64> {
      try heap.publish { p throws(NVMError) in
        for i in 0..<Int(round % 20 + 2) { try p.set(round, at: table + 8 * i) }
      }
      if round % 17 == 0 {
        let again = try reopened(heap)
        XCTAssertEqual(again.recovery.replayedRecords, 0)
        XCTAssertEqual(try again.verify().problems, [])
        XCTAssertEqual(again.region.load(table), round)
      }
    }
  }

  /// Sparse slabs are emptied, all pointers follow, and the space can be used for something else.
  func testDefragment() throws {
    let heap = try makeHeap(size: 2 << 20)
    let count = 3000
    let links = try heap.allocate(byteCount: count * 8)
    heap.region.fill(links, count: count * 8)
    var live: [Int: UInt64] = [:]
    for i in 0..<count {
      let p = try heap.place(byteCount: [100, 300][i % 2], tag: BlockTag(rawValue: 9), into: links + i * 8) {
        p in
        heap.region.store(UInt64(i), at: p)
      }
      live[i] = p.rawValue
    }
    // Every seventh stays.
    for i in 0..<count where i % 7 != 0 {
      try heap.remove(from: links + i * 8)
      live[i] = nil
    }
    // A second link to a block, and one that leads nowhere.
    let second = try heap.rootLink(named: "second")
    try heap.setRoot(Offset(rawValue: live[0]!), named: "second")
    let slabs = heap.statistics.sizeClasses.reduce(0) { $0 + $1.slabs }
    let pointers = (0..<count).map { links + $0 * 8 } + [second]
    let result = try heap.defragment(pointers: pointers)
    XCTAssertGreaterThan(result.movedBlocks, 200)
    XCTAssertGreaterThan(result.clearedSlabs, slabs / 2)
    XCTAssertEqual(heap.region.load(second), heap.region.load(links))
    XCTAssertEqual(try heap.verify().problems, [])
    for h in [heap, try reopened(heap)] {
      for i in 0..<count {
        let p = Offset(rawValue: h.region.load(links + i * 8))
        XCTAssertEqual(p.isNull, live[i] == nil)
        if !p.isNull {
          XCTAssertEqual(h.region.load(p), UInt64(i))
          XCTAssertEqual(try h.info(of: p).tag.rawValue, 9)
          XCTAssertEqual(try h.info(of: p).length, [100, 300][i % 2])
        }
      }
      XCTAssertEqual(try h.blocks.count, live.count + 1)
    }
    // Under pressure what was cleared goes back.
    assertThrows(.outOfSpace, try heap.allocate(byteCount: 1900 << 10))
    XCTAssertLessThan(heap.statistics.sizeClasses.reduce(0) { $0 + $1.slabs }, slabs / 2)
    // Nothing is left to do, and what is wrong is refused with nothing changed.
    XCTAssertEqual(try heap.defragment(pointers: pointers).movedBlocks, 0)
    assertThrows(.invalidArgument, try heap.defragment(pointers: [links + 4]))
    heap.region.store(UInt64(links.rawValue + 8), at: second)
    assertThrows(.foreignOffset, try heap.defragment(pointers: pointers))
    XCTAssertEqual(try heap.verify().problems, [])
  }

  func testALinkInABlockThatWouldMoveIsRefused() throws {
    let heap = try makeHeap(size: 1 << 20)
    var all: [Offset] = []
    for _ in 0..<300 { all.append(try heap.allocate(byteCount: 100)) }
    for p in all[1..<299] { try heap.deallocate(p) }
    let root = try heap.rootLink(named: "r")
    try heap.setRoot(all[0], named: "r")
    heap.region.store(all[299].rawValue, at: all[0])
    let before = try heap.blocks
    let pointers = [root, all[0]]
    var refusals = 0
    do {
      try heap.defragment(pointers: pointers)
    } catch {
      XCTAssertEqual(error.code, .invalidArgument)
      refusals += 1
    }
    XCTAssertEqual(refusals, 1)
    XCTAssertEqual(try heap.blocks, before)
    XCTAssertEqual(try heap.verify().problems, [])
  }
}
