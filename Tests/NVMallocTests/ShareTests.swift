import NVMRegion
import XCTest

@testable import NVMalloc

/// Threads that use the same size at the same time.
final class ShareTests: XCTestCase {
  private let size = 40
  private func index(_ heap: PersistentHeap) throws -> Int {
    try XCTUnwrap(heap.classIndex(size, prefix: 16))
  }
  /// A thread with another share than this one.
  private func otherThread(_ heap: PersistentHeap, _ index: Int) throws -> OtherThread {
    var unwanted: [OtherThread] = []
    defer { for thread in unwanted { thread.end() } }
    for _ in 0..<heap.shares.limit {
      let thread = OtherThread()
      var number = 0
      try thread.run { number = heap.shares.own(index).pointee.number }
      if number != heap.shares.own(index).pointee.number { return thread }
      unwanted.append(thread)
    }
    throw XCTSkip("No thread has another share.")
  }
  private func slabs(_ heap: PersistentHeap) -> Int {
    heap.statistics.sizeClasses.reduce(0) { $0 + $1.slabs }
  }

  func testOneThreadHasOneShare() throws {
    let heap = try makeHeap(size: 1 << 20)
    var blocks: [Offset] = []
    for step in 0..<20_000 {
      if step % 3 == 2 {
        try heap.deallocate(blocks.removeLast())
      } else if blocks.count < 2000 {
        blocks.append(try heap.allocate(byteCount: step % 200))
      }
    }
    XCTAssertEqual(heap.shares.count, 1)
  }

  /// Who has to wait for another thread again and again gets a share of its own.
  func testThreadsThatMeetGetShares() throws {
    let heap = try makeHeap(size: 1 << 20)
    let index = try index(heap)
    final class Flag: @unchecked Sendable {
      private let lock = NSLock()
      private var value = false
      var isOver: Bool {
        get { lock.withLock { value } }
        set { lock.withLock { value = newValue } }
      }
    }
    let flag = Flag()
    let threads = Threads()
    threads.run { [size] in
      while !flag.isOver {
        if let block = try? heap.allocate(byteCount: size) { try? heap.deallocate(block) }
      }
    }
    // Eight times in which the other thread finds the lock taken would do.
    for _ in 0..<5000 where heap.shares.count == 1 {
      let share = heap.enter(index)
      usleep(1000)
      heap.lock(of: share).unlock()
      usleep(1000)
    }
    flag.isOver = true
    threads.wait()
    XCTAssertGreaterThan(heap.shares.count, 1)
    XCTAssertEqual(heap.statistics.liveBlocks, 0)
    XCTAssertEqual(try heap.verify().problems, [])
  }

  /// What another thread frees rests there, comes back when it has rested, and needs no new slab.
  func testBlocksFreedByAnotherThreadComeBack() throws {
    let heap = try makeHeap(size: 1 << 20, quarantine: .quarantine(.milliseconds(200)), shares: 8)
    heap.setTime(1 << 30)
    let thread = try otherThread(heap, try index(heap))
    defer { thread.end() }
    let blocks = try (0..<1000).map { _ in try heap.allocate(byteCount: size) }
    try thread.run { for block in blocks { try heap.deallocate(block) } }
    XCTAssertEqual(heap.statistics.quarantinedBlocks, 1000)
    XCTAssertEqual(heap.statistics.liveBlocks, 0)
    let others = try (0..<100).map { _ in try heap.allocate(byteCount: size) }
    XCTAssert(Set(blocks).isDisjoint(with: others), "used before it has rested")
    let before = slabs(heap)
    heap.setTime(1 << 30 + 300_000_000)
    let again = try (0..<900).map { _ in try heap.allocate(byteCount: size) }
    XCTAssertGreaterThanOrEqual(Set(blocks).intersection(again).count, 800)
    XCTAssertEqual(Set(again + others).count, 1000, "handed out twice")
    XCTAssertEqual(slabs(heap), before)
    XCTAssertEqual(heap.statistics.liveBlocks, 1000)
    XCTAssertEqual(try heap.verify().problems, [])
    // Freed where they are at home or not, each once.
    try thread.run { for block in again { try heap.deallocate(block) } }
    assertThrows(.doubleFree, try heap.deallocate(again[0]))
    for block in others { try heap.deallocate(block) }
    try thread.run { assertThrows(.doubleFree, try heap.deallocate(others[0])) }
    XCTAssertEqual(try heap.blocks.count, 0)
  }

  /// No block twice within T, while there is room, whoever frees and whoever allocates.
  func testNoBlockTwiceWithinT() throws {
    for size in [40, 3000] {
      let heap = try makeHeap(
        size: 4 << 20, geometry: HeapGeometry(), quarantine: .quarantine(.milliseconds(200)), shares: 8)
      let thread = try otherThread(heap, try XCTUnwrap(heap.classIndex(size, prefix: 16)))
      defer { thread.end() }
      var random = SplitMix(seed: 9)
      var now: UInt64 = 1 << 30
      var freed: [Offset: UInt64] = [:]
      var live: [Offset] = []
      var reused = 0
      for _ in 0..<4000 {
        now += UInt64.random(in: 0..<8_000_000, using: &random)
        heap.setTime(now)
        let isHere = Bool.random(using: &random)
        if live.count < 3 || Bool.random(using: &random) && live.count < 12 {
          var p = Offset.null
          if isHere {
            p = try heap.allocate(byteCount: size)
          } else {
            try thread.run { p = try heap.allocate(byteCount: size) }
          }
          XCTAssertFalse(live.contains(p), "handed out twice")
          if let then = freed[p] {
            XCTAssertGreaterThanOrEqual(now - then, 200_000_000)
            reused += 1
          }
          live.append(p)
        } else {
          let p = live.remove(at: Int.random(in: 0..<live.count, using: &random))
          if isHere { try heap.deallocate(p) } else { try thread.run { try heap.deallocate(p) } }
          freed[p] = now
        }
      }
      XCTAssertGreaterThan(reused, 500)
    }
  }

  /// Slabs of a thread that ended are used before new ones are made.
  func testSlabsOfAThreadThatEndedAreTakenOver() throws {
    let heap = try makeHeap(size: 1 << 20, shares: 8)
    let thread = try otherThread(heap, try index(heap))
    var blocks: [Offset] = []
    try thread.run { [size] in blocks = try (0..<2000).map { _ in try heap.allocate(byteCount: size) } }
    thread.end()
    // Their blocks are free, and nothing of them rests.
    for block in blocks { try heap.deallocate(block) }
    heap.settleAllRested(heap.shares.own(try index(heap)))
    let before = slabs(heap)
    XCTAssertGreaterThan(before, 10)
    let again = try (0..<2000).map { _ in try heap.allocate(byteCount: size) }
    // A slab of its own it made before it knew that nobody else used the others.
    XCTAssertLessThanOrEqual(slabs(heap), before + 2)
    XCTAssertGreaterThan(Set(again).intersection(blocks).count, 1800)
    XCTAssertEqual(Set(again).count, again.count)
    for block in again { try heap.deallocate(block) }
    XCTAssertEqual(try heap.verify().problems, [])
  }

  /// A heap that is full has none left anywhere: all that one thread frees another one gets, resting or not, at rest here
  /// or there.
  func testTheLastBlocksOfAFullHeap() throws {
    for policy in [QuarantinePolicy.none, .quarantine(.seconds(100))] {
      let heap = try makeHeap(size: 256 << 10, quarantine: policy, shares: 8)
      let thread = try otherThread(heap, try index(heap))
      defer { thread.end() }
      var live: Set<Offset> = []
      func fill(here: Bool) throws {
        func one() throws -> Bool {
          do throws(NVMError) {
            let block = try heap.allocate(byteCount: size)
            XCTAssert(live.insert(block).inserted, "handed out twice")
            return true
          } catch {
            XCTAssertEqual(error.code, .outOfSpace)
            return false
          }
        }
        if here { while try one() {} } else { try thread.run { while try one() {} } }
      }
      var random = SplitMix(seed: 3)
      for i in 0..<300 { if i % 2 == 0 { live.insert(try heap.allocate(byteCount: size)) } }
      try fill(here: false)
      let count = live.count
      XCTAssertGreaterThan(count, 2000)
      try fill(here: true)
      XCTAssertEqual(live.count, count)
      for round in 0..<12 {
        let some = live.shuffled(using: &random).prefix([1, 7, 300, count][round % 4])
        for (i, block) in some.enumerated() {
          live.remove(block)
          if i % 3 == 0 { try heap.deallocate(block) } else { try thread.run { try heap.deallocate(block) } }
        }
        try fill(here: round & 1 == 0)
        XCTAssertEqual(live.count, count, "round \(round)")
        XCTAssertEqual(heap.statistics.liveBlocks, count)
      }
      for block in live { try heap.deallocate(block) }
      XCTAssertEqual(heap.statistics.liveBlocks, 0)
      // And everything is free: one block can have it all.
      XCTAssertNoThrow(try heap.allocate(byteCount: 200 << 10))
      XCTAssertEqual(try heap.verify().problems, [])
    }
  }

  /// Moving blocks together finds room in all shares.
  func testDefragmentJoinsShares() throws {
    let heap = try makeHeap(size: 2 << 20, shares: 8)
    let thread = try otherThread(heap, try index(heap))
    defer { thread.end() }
    let count = 3000
    let links = try heap.allocate(byteCount: count * 8)
    heap.region.fill(links, count: count * 8)
    for i in 0..<count {
      let place = { [size] in
        _ = try heap.place(byteCount: size, into: links + i * 8) { heap.region.store(UInt64(i), at: $0) }
      }
      if i / 500 & 1 == 0 { try place() } else { try thread.run(place) }
    }
    for i in 0..<count where i % 7 != 0 {
      if i & 1 == 0 {
        try heap.remove(from: links + i * 8)
      } else {
        try thread.run { try heap.remove(from: links + i * 8) }
      }
    }
    let before = slabs(heap)
    let result = try heap.defragment(pointers: (0..<count).map { links + $0 * 8 })
    XCTAssertGreaterThan(result.clearedSlabs, before / 2)
    for i in 0..<count {
      let p = Offset(rawValue: heap.region.load(links + i * 8))
      XCTAssertEqual(p.isNull, i % 7 != 0)
      if !p.isNull { XCTAssertEqual(heap.region.load(p), UInt64(i)) }
    }
    XCTAssertEqual(try heap.blocks.count, (count + 6) / 7 + 1)
    XCTAssertEqual(heap.statistics.liveBlocks, (count + 6) / 7 + 1)
    XCTAssertEqual(try heap.verify().problems, [])
  }

  /// Threads come and go, and free what others allocated: nothing is handed out twice, nothing is lost.
  func testThreadsThatComeAndGo() throws {
    for policy in [QuarantinePolicy.none, .quarantine(.milliseconds(1))] {
      let heap = try makeHeap(size: 512 << 10, maximumSize: 8 << 20, quarantine: policy, shares: 8)
      let sizes = [40, 100, 1000]
      final class Common: @unchecked Sendable {
        let lock = NSLock()
        var blocks: [Offset] = []
        var failures: [String] = []
      }
      let common = Common()
      for round in 0..<8 {
        let threads = Threads()
        for t in 0..<4 {
          threads.run {
            var random = SplitMix(seed: UInt64(round * 4 + t))
            do {
              for step in 0..<1500 {
                let n = UInt64(round) << 32 | UInt64(t) << 24 | UInt64(step)
                if Int.random(in: 0..<9, using: &random) < 5 {
                  let p = try heap.allocate(byteCount: sizes.randomElement(using: &random)!)
                  heap.region.store(n, at: p)
                  // Somebody else may have it in hand as soon as it is among the others.
                  let isMine = heap.region.load(p) == n
                  common.lock.withLock {
                    if !isMine { common.failures.append("handed out twice") }
                    common.blocks.append(p)
                  }
                } else {
                  let p = common.lock.withLock { () -> Offset? in
                    if common.blocks.isEmpty { return nil }
                    let i = Int.random(in: 0..<common.blocks.count, using: &random)
                    common.blocks.swapAt(i, common.blocks.count - 1)
                    return common.blocks.removeLast()
                  }
                  if let p { try heap.deallocate(p) }
                }
              }
            } catch {
              common.lock.withLock { common.failures.append("\(error)") }
            }
          }
        }
        if round == 4 { _ = heap.joinShares(try index(heap)) }
        let report = try heap.verify()
        XCTAssertEqual(report.problems, [])
        threads.wait()
        XCTAssertEqual(common.failures, [])
        XCTAssertEqual(Set(common.blocks).count, common.blocks.count)
        XCTAssertEqual(Set(try heap.blocks.map(\.payload)), Set(common.blocks))
        XCTAssertEqual(heap.statistics.liveBlocks, common.blocks.count)
      }
      for block in common.blocks { try heap.deallocate(block) }
      XCTAssertEqual(heap.statistics.liveBlocks, 0)
      let all = heap.statistics.totalBytes - heap.statistics.metadataBytes
      XCTAssertNoThrow(try heap.deallocate(try heap.allocate(byteCount: all * 2 / 3)))
      XCTAssertEqual(try heap.verify().problems, [])
    }
  }
}
