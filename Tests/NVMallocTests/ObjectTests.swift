import NVMRegion
import XCTest

@testable import NVMalloc

/// Large objects: used again as they are, by threads that do not wait for each other.
final class ObjectTests: XCTestCase {
  private func lines(_ heap: PersistentHeap, _ body: () throws -> Void) rethrows -> UInt64 {
    let before = heap.region.counters.lines
    try body()
    return heap.region.counters.lines - before
  }

  func testAnObjectIsUsedAgainAsItIs() throws {
    let heap = try makeHeap()
    let blocks = try (0..<9).map { try heap.allocate(byteCount: (10 + $0) << 10) }
    for p in blocks { XCTAssertEqual(try lines(heap) { try heap.deallocate(p) }, 1) }
    // Of what fits, or is little larger, in the order of freeing; nothing but its own head is written.
    for i in [8, 0, 3] {
      var p = Offset.null
      XCTAssertEqual(try lines(heap) { p = try heap.allocate(byteCount: (10 + i) << 10) }, 1)
      XCTAssertEqual(p, blocks[i])
    }
    let larger = try heap.allocate(byteCount: 10 << 10)
    XCTAssertEqual(larger, blocks[1])
    XCTAssertEqual(try heap.usableSize(of: larger), 11 << 10)
    // A reservation too, without a line; its bytes may have been written, so it rests when it is cancelled.
    var reservation: Reservation?
    XCTAssertEqual(try lines(heap) { reservation = try heap.reserve(byteCount: 15 << 10) }, 0)
    XCTAssertEqual(reservation?.payload, blocks[5])
    heap.cancel(try XCTUnwrap(reservation))
    try heap.publish { publication throws(NVMError) in
      let p = try publication.reserve(byteCount: 15 << 10)
      XCTAssertEqual(p, blocks[5])
    }
    XCTAssertEqual(try heap.verify().problems, [])
    XCTAssertEqual(heap.statistics.largeObjects, 5)
    XCTAssertEqual(heap.statistics.largeObjectBytes, (18 + 10 + 13 + 10 + 15) << 10)
    let again = try reopened(heap)
    XCTAssertEqual(Set(try again.blocks.map(\.payload)), Set([8, 0, 3, 1, 5].map { blocks[$0] }))
    XCTAssertEqual(again.statistics.largeObjects, 5)
    XCTAssertEqual(try again.verify().problems, [])
  }

  /// Spare extents are joined where a longer run is wanted, before the heap grows or uses what rests.
  func testSparesAreJoined() throws {
    let heap = try makeHeap(size: 1 << 20, maximumSize: 4 << 20, quarantine: .quarantine(.milliseconds(200)))
    heap.setTime(1 << 30)
    var blocks: [Offset] = []
    while heap.statistics.totalBytes == 1 << 20 { blocks.append(try heap.allocate(byteCount: 10 << 10)) }
    let size = heap.statistics.totalBytes
    for p in blocks.prefix(80) { try heap.deallocate(p) }
    heap.setTime(2 << 30)
    for p in blocks.dropFirst(80) { try heap.deallocate(p) }
    let resting = heap.statistics.quarantinedBlocks
    let p = try heap.allocate(byteCount: 600 << 10)
    XCTAssertEqual(heap.statistics.totalBytes, size)
    XCTAssertEqual(heap.statistics.quarantinedBlocks, blocks.count - 80)
    XCTAssertEqual(resting, blocks.count)
    XCTAssertEqual(try heap.verify().problems, [])
    XCTAssertEqual(try reopened(heap).blocks.map(\.payload), [p])
  }

  /// However much is freed and not wanted again, slabs find room before space is touched that was never used.
  func testSparesAreLimited() throws {
    let heap = try makeHeap(size: 8 << 20)
    for _ in 0..<40 {
      let blocks = try (0..<20).map { try heap.allocate(byteCount: (10 + $0) << 10) }
      for p in blocks { try heap.deallocate(p) }
      // Slabs take no spare extents.
      for _ in 0..<10 { _ = try heap.allocate(byteCount: 1000) }
      var spare = 0
      for share in heap.shares.allObjects() { spare += share.pointee.words.spareUnits }
      XCTAssertLessThanOrEqual(spare, heap.unitCount / 8 + 20 * 30)
    }
    // One that fits none of them takes its units off a run.
    let other = try makeHeap(size: 8 << 20)
    let blocks = try (0..<300).map { _ in try other.allocate(byteCount: 12 << 10) }
    for p in blocks { try other.deallocate(p) }
    let words = other.shares.ownObjects.pointee.words
    XCTAssertEqual(words.restingUnits, 300 * 12)
    _ = try other.allocate(byteCount: 30 << 10)
    XCTAssertEqual(words.restingUnits, 0)
    XCTAssertGreaterThan(words.spareUnits, 0)
    XCTAssertLessThanOrEqual(words.spareUnits, other.unitCount / 8)
    XCTAssertEqual(try other.verify().problems, [])
  }

  /// What one thread has freed serves another, and under pressure what was freed first goes first, whoever freed it.
  func testThreadsTakeFromEachOther() throws {
    let heap = try makeHeap(size: 1 << 20, quarantine: .quarantine(.milliseconds(200)), shares: 8)
    heap.setTime(1 << 30)
    var blocks: [Offset] = []
    while let p = try? heap.allocate(byteCount: 10 << 10) { blocks.append(p) }
    let mine = heap.shares.ownObjects
    let threads = (0..<8).map { _ in OtherThread() }
    defer { for thread in threads { thread.end() } }
    var isElsewhere = false
    for (i, thread) in threads.enumerated() {
      heap.setTime(1 << 30 + UInt64(i) << 22)
      try thread.run {
        if heap.shares.ownObjects != mine { isElsewhere = true }
        try heap.deallocate(blocks[i])
      }
      heap.setTime(1 << 30 + UInt64(i) << 22 + 1 << 21)
      try heap.deallocate(blocks[i + 8])
    }
    XCTAssertTrue(isElsewhere)
    XCTAssertEqual(heap.statistics.quarantinedBlocks, 16)
    for i in 0..<2 {
      XCTAssertEqual(try heap.allocate(byteCount: 10 << 10), blocks[i])
      XCTAssertEqual(try heap.allocate(byteCount: 10 << 10), blocks[i + 8])
    }
    heap.setTime(2 << 30)
    var rest: Set<Offset> = []
    for _ in 0..<12 { rest.insert(try heap.allocate(byteCount: 10 << 10)) }
    XCTAssertEqual(rest, Set(blocks[2..<8] + blocks[10..<16]))
    XCTAssertEqual(try heap.verify().problems, [])
  }

  /// Who looks at all blocks beside threads that replace large ones sees no damage where there is none.
  func testLookingBesideReplacements() throws {
    let heap = try makeHeap(size: 4 << 20, shares: 4)
    let failures = Failures()
    let threads = Threads()
    let kept = try heap.allocate(byteCount: 9000)
    for t in 0..<2 as Range<UInt64> {
      threads.run {
        var random = SplitMix(seed: t)
        failures.catching {
          var mine = try (0..<20).map { _ in try heap.allocate(byteCount: 9000) }
          for step in 0..<30_000 {
            try heap.deallocate(mine[step % 20])
            mine[step % 20] = try heap.allocate(byteCount: Int.random(in: 9000...12_000, using: &random))
          }
        }
      }
    }
    threads.run {
      failures.catching {
        for _ in 0..<3000 {
          var isSeen = false
          try heap.forEachBlock { if $0.payload == kept { isSeen = true } }
          if !isSeen { failures.add("a block that lives was not seen") }
        }
      }
    }
    threads.wait()
    XCTAssertEqual(failures.all, [])
    XCTAssertEqual(try heap.verify().problems, [])
    XCTAssertEqual(try reopened(heap).blocks.count, 41)
  }

  /// Replacements beside growth, by which the table of extents moves again and again.
  func testReplacementsWhileTheTableMoves() throws {
    for round in 0..<4 as Range<UInt64> {
      let heap = try makeHeap(size: 64 << 10, maximumSize: 64 << 20, shares: 4)
      let failures = Failures()
      let threads = Threads()
      for t in 0..<3 as Range<UInt64> {
        threads.run {
          var random = SplitMix(seed: round << 8 | t)
          var mine: [Offset] = []
          failures.catching {
            for _ in 0..<3000 {
              if mine.count > 40 || !mine.isEmpty && Bool.random(using: &random) {
                let i = Int.random(in: 0..<mine.count, using: &random)
                if heap.region.load(mine[i]) != mine[i].rawValue { failures.add("bytes are another's") }
                try heap.deallocate(mine.remove(at: i))
              } else {
                mine.append(try heap.allocate(byteCount: Int.random(in: 9000...60_000, using: &random)))
                heap.region.store(mine[mine.count - 1].rawValue, at: mine[mine.count - 1])
              }
            }
            for p in mine { try heap.deallocate(p) }
          }
        }
      }
      threads.run {
        failures.catching {
          for _ in 0..<60 {
            _ = try heap.allocate(byteCount: 300 << 10)
            let report = try heap.verify()
            if !report.isClean { failures.add("\(report.problems)") }
          }
        }
      }
      threads.wait()
      XCTAssertEqual(failures.all, [])
      XCTAssertEqual(try heap.verify().problems, [])
      for h in [heap, try reopened(heap)] {
        XCTAssertEqual(try h.blocks.count, 60)
        XCTAssertEqual(h.statistics.largeObjects, 60)
      }
    }
  }
}

/// What threads found wrong.
private final class Failures: @unchecked Sendable {
  private let lock = NSLock()
  private var found: [String] = []
  var all: [String] { lock.withLock { found } }
  func add(_ text: String) { lock.withLock { found.append(text) } }
  func catching(_ body: () throws -> Void) {
    do { try body() } catch { add("\(error)") }
  }
}
