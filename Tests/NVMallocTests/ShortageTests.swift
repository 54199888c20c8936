import NVMRegion
import NVMalloc
import XCTest

/// In a full heap a search for empty slabs that was in vain is not repeated before it could end otherwise.
final class ShortageTests: XCTestCase {
  /// 3,900 blocks, half of the heap live and the rest resting; time stands still. (Each allocation that found no block of its
  /// class rested searched all classes before.)
  func testNoSearchIsRepeatedInVain() throws {
    let heap = try makeHeap(size: 4 << 20, quarantine: .quarantine(.milliseconds(200)))
    heap.setTime(1_000_000_000)
    var random = SplitMix(seed: 7)
    func size() -> Int {
      let shift = Int.random(in: 0..<7, using: &random)
      return Int.random(in: 16 << shift..<32 << shift, using: &random)
    }
    var slots = try (0..<3900).map { _ in try heap.allocate(byteCount: size()) }
    func replace(_ count: Int) throws {
      for _ in 0..<count {
        let i = Int.random(in: 0..<slots.count, using: &random)
        try heap.deallocate(slots[i])
        slots[i] = try heap.allocate(byteCount: size())
      }
    }
    try replace(30_000)
    let before = heap.searchCount
    try replace(10_000)
    XCTAssertLessThan(heap.searchCount - before, 500)
    XCTAssertEqual(try heap.verify().problems, [])
  }

  /// A full heap of 3 KiB and some blocks of 40 bytes, all of them resting.
  private func fullHeap() throws -> (heap: PersistentHeap, large: [Offset], small: Set<Offset>) {
    let heap = try makeHeap(size: 1 << 20, quarantine: .quarantine(.milliseconds(200)))
    heap.setTime(1_000_000_000)
    var small: [Offset] = []
    small.append(try heap.allocate(byteCount: 40))
    var large: [Offset] = []
    while let p = try? heap.allocate(byteCount: 3000) { large.append(p) }
    // What is left in units and in slabs.
    while heap.statistics.freeBytes > 0, let p = try? heap.allocate(byteCount: 40) { small.append(p) }
    for p in small { try heap.deallocate(p) }
    return (heap, large, Set(small))
  }

  func testTheOldestServesDuringAShortage() throws {
    let (heap, _, small) = try fullHeap()
    let first = try heap.allocate(byteCount: 40)
    XCTAssertTrue(small.contains(first))
    let before = heap.searchCount
    for _ in 0..<10 { XCTAssertTrue(small.contains(try heap.allocate(byteCount: 40))) }
    XCTAssertEqual(heap.searchCount, before)
  }

  /// What rests in another class ends the shortage as soon as it has rested, and no tick before.
  func testAShortageEndsWhenOthersHaveRested() throws {
    let (heap, large, small) = try fullHeap()
    heap.setTime(1_500_000_000)
    // So that nothing of these has rested when the others have.
    for p in try (0..<small.count).map({ _ in try heap.allocate(byteCount: 40) }) { try heap.deallocate(p) }
    XCTAssertTrue(small.contains(try heap.allocate(byteCount: 40)))
    for p in large { try heap.deallocate(p) }
    // No slab is known to be empty yet.
    XCTAssertTrue(small.contains(try heap.allocate(byteCount: 40)))
    heap.setTime(1_650_000_000)
    for p in try (0..<small.count - 2).map({ _ in try heap.allocate(byteCount: 40) }) {
      try heap.deallocate(p)
    }
    let before = heap.searchCount
    for _ in 0..<3 { XCTAssertTrue(small.contains(try heap.allocate(byteCount: 40))) }
    XCTAssertEqual(heap.searchCount, before)
    heap.setTime(1_750_000_000)
    XCTAssertFalse(small.contains(try heap.allocate(byteCount: 40)))
    XCTAssertEqual(try heap.verify().problems, [])
  }

  /// An extent that is freed ends it at once.
  func testAShortageEndsWhenAnExtentIsFreed() throws {
    let heap = try makeHeap(size: 1 << 20, quarantine: .quarantine(.milliseconds(200)))
    heap.setTime(1_000_000_000)
    let object = try heap.allocate(byteCount: 64 << 10)
    var small: Set<Offset> = []
    while let p = try? heap.allocate(byteCount: 40) { small.insert(p) }
    for p in small { try heap.deallocate(p) }
    for _ in 0..<10 { XCTAssertTrue(small.contains(try heap.allocate(byteCount: 40))) }
    try heap.deallocate(object)
    let p = try heap.allocate(byteCount: 40)
    XCTAssertTrue(p.rawValue >= object.rawValue && p.rawValue < object.rawValue + 64 << 10, "\(p)")
    XCTAssertEqual(try heap.verify().problems, [])
  }
}
