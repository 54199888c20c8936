import NVMRegion
import NVMalloc
import XCTest

/// Slabs that were there at open get their descriptors when they are needed.
final class PendingSlabTests: XCTestCase {
  /// A heap with full slabs of several classes, opened anew, and what lives in it.
  private func filled(size: Int = 1 << 20, freeing: Bool = false) throws -> (PersistentHeap, [Offset: Int]) {
    let heap = try makeHeap(size: size)
    var live: [Offset: Int] = [:]
    var random = SplitMix(seed: 11)
    for i in 0..<6000 {
      let bytes = [16, 100, 300, 1000].randomElement(using: &random)!
      guard let p = try? heap.allocate(byteCount: bytes, owner: OwnerToken(rawValue: UInt32(i))) else {
        break
      }
      live[p] = bytes
    }
    if freeing {
      for p in live.keys.sorted() where Bool.random(using: &random) {
        try heap.deallocate(p)
        live[p] = nil
      }
    }
    return (try reopened(heap), live)
  }

  func testABlockThatIsNamedBringsItsSlabIn() throws {
    let (heap, live) = try filled()
    let pending = heap.pendingSlabCount
    XCTAssertGreaterThan(pending, 100)
    var random = SplitMix(seed: 3)
    let some = live.keys.sorted().shuffled(using: &random).prefix(20)
    for (i, p) in some.enumerated() {
      if i % 2 == 0 { XCTAssertEqual(try heap.info(of: p).length, live[p]) }
      assertThrows(.foreignOffset, try heap.deallocate(p + 8))
      try heap.deallocate(p)
      assertThrows(.doubleFree, try heap.deallocate(p))
    }
    XCTAssertLessThan(heap.pendingSlabCount, pending)
    XCTAssertGreaterThan(heap.pendingSlabCount, 0)
    XCTAssertEqual(Set(try heap.blocks.map(\.payload)), Set(live.keys).subtracting(some))
    XCTAssertEqual(heap.pendingSlabCount, 0)
    XCTAssertEqual(try heap.verify().problems, [])
  }

  func testWhatWasFreeAtOpenIsFound() throws {
    // The region cannot grow: each block that is free somewhere is wanted.
    let (heap, live) = try filled(freeing: true)
    let (other, _) = try filled(freeing: true)
    _ = other.statistics
    XCTAssertEqual(other.pendingSlabCount, 0)
    XCTAssertGreaterThan(heap.pendingSlabCount, 100)
    func fill(_ heap: PersistentHeap) throws -> Set<Offset> {
      var made: Set<Offset> = []
      while let p = try? heap.allocate(byteCount: 100) { XCTAssert(made.insert(p).inserted) }
      return made
    }
    let made = try fill(heap)
    XCTAssertEqual(made.count, try fill(other).count)
    XCTAssertTrue(made.isDisjoint(with: live.keys))
    XCTAssertEqual(heap.statistics.liveBlocks, live.count + made.count)
    XCTAssertEqual(try heap.verify().problems, [])
  }

  func testOldRoomIsUsedBeforeNewSlabsAreMade() throws {
    let (heap, live) = try filled(size: 4 << 20, freeing: true)
    let (other, _) = try filled(size: 4 << 20, freeing: true)
    func slabs(_ heap: PersistentHeap) -> Int {
      heap.statistics.sizeClasses.first { $0.blockSize == 128 }!.slabs
    }
    for _ in 0..<(live.count / 8) { _ = try heap.allocate(byteCount: 100) }
    XCTAssertGreaterThan(heap.pendingSlabCount, 0)
    XCTAssertLessThanOrEqual(slabs(heap), slabs(other) + 1)
  }

  func testThreadsBringSlabsInTogether() throws {
    let (heap, live) = try filled(size: 4 << 20, freeing: true)
    let all = live.keys.sorted()
    let threads = Threads()
    for t in 0..<4 {
      threads.run {
        var random = SplitMix(seed: UInt64(t))
        var mine = stride(from: t, to: all.count, by: 4).map { all[$0] }.shuffled(using: &random)
        while let p = mine.popLast() {
          do {
            _ = try heap.info(of: p)
            if Bool.random(using: &random) {
              _ = try heap.allocate(byteCount: 100, tag: BlockTag(rawValue: 9))
            }
            try heap.deallocate(p)
          } catch {
            XCTFail("\(error)")
          }
        }
      }
    }
    threads.run { XCTAssertNotNil(try? heap.scanSlabs()) }
    threads.wait()
    XCTAssertTrue(try heap.blocks.allSatisfy { $0.tag == BlockTag(rawValue: 9) })
    let report = try heap.verify()
    XCTAssertEqual(report.problems, [])
    XCTAssertEqual(report.liveBlocks, heap.statistics.liveBlocks)
  }

  func testAHeadThatRotsBetweenOpeningAndUseIsAnError() throws {
    let (heap, live) = try filled()
    let lost = live.keys.min()!
    let kept = live.keys.max()!
    XCTAssertEqual(heap.statistics.damagedHeaders, 0)
    let (again, _) = try filled()
    let table = Offset(rawValue: again.region.load(again.region.payloadStart + 48))
    for unit in 0...(lost.bytes / again.extentUnit) {
      memset(again.region.pointer(to: table + unit * 64), 0, 64)
    }
    assertThrows(.foreignOffset, try again.deallocate(lost))
    try again.deallocate(kept)
    XCTAssertGreaterThan(again.statistics.damagedHeaders, 0)
  }
}
