import CNVM
import NVMRegion
import NVMalloc
import XCTest

@testable import NVMBTree

/// The order of a leaf's slots, which is worked out in C by whatever vectors the processor has.
final class SlotOrderTests: XCTestCase {
  /// Heads that differ in various bytes, in few of them or in none: mostly all from one kind in a row, as in a tree.
  private func heads(_ kind: Int, _ random: inout SystemRandomNumberGenerator) -> [UInt64] {
    let common = UInt64.random(in: 0...UInt64.max, using: &random)
    return (0..<Int(NVM_LEAF_SLOTS)).map { slot in
      let any = UInt64.random(in: 0...UInt64.max, using: &random)
      return switch kind {
      // Few different ones, so that many tie.
      case 0: any % 20
      // The whole range, whose upper half is negative to a signed compare.
      case 1: any
      // From some bit on, wherever bytes end.
      case 2...9: common &+ any >> UInt64(8 * (kind - 2) + slot % 3)
      // Across a boundary of many bits.
      case 10: 1 << 63 &+ any >> 40 &- 1 << 22
      // Far apart in pairs that tie in the topmost bytes.
      case 11: UInt64(slot / 2) << 56 | any >> 60
      default: common
      }
    }
  }

  /// A leaf in a thousand whose heads tie where those of all others differ makes no walk slower.
  func testOneTieDoesNotGiveTheWindowUp() throws {
    let differing = (0..<UInt64(NVM_LEAF_SLOTS)).flatMap { [$0 << 46 | 0x7, $0] }
    var tied = differing
    tied[2] = tied[0] + 1
    var pairs = [UInt64](repeating: 0, count: 2 * Int(NVM_SLOTS_MAX))
    func sort(_ slots: [UInt64], _ window: inout UInt32) {
      _ = nvm_sort_slots(slots, UInt32(NVM_LEAF_LIVE), &pairs, slots, &window)
    }
    var window = UInt32(NVM_WINDOW_TOP)
    for _ in 0..<4 { sort(tied, &window) }
    try XCTSkipIf(window == UInt32(NVM_WINDOW_TOP), "this processor knows no windows")
    XCTAssertEqual(window, UInt32(NVM_WINDOW_NONE))
    for start in 0...UInt32(NVM_WINDOW_TOP) {
      window = start
      for _ in 0..<3 { sort(differing, &window) }
      let found = window
      sort(tied, &window)
      sort(differing, &window)
      XCTAssertEqual(window, found)
    }
  }

  /// What a tree was told of its keys is tried again, though all walks are short.
  func testShortWalksFindTheWindowAgain() throws {
    let heap = try PersistentHeap.format(
      PersistentRegion.inMemory(image: nil, size: 16 << 20, maximumSize: 16 << 20, medium: nil))
    let tree = try DurableBTree<UInt64, UInt64>(in: heap, root: "t")
    for i in 0..<20_000 as Range<UInt64> { try tree.setValue(i, forKey: i &* 0x9E37_79B9_7F4A_7C15) }
    func walk() throws {
      for i in 0..<500 as Range<UInt64> {
        var sum: UInt64 = 0
        for entry in try tree[(i &* 0x6A09_E667_F3BC_C909)...].prefix(3) { sum &+= entry.value }
        XCTAssertGreaterThan(sum, 0)
      }
    }
    nvm_store_relaxed(tree.engine.windowWord, 0)
    try walk()
    try XCTSkipIf(nvm_load_relaxed(tree.engine.windowWord) == 0, "this processor knows no windows")
    nvm_store_relaxed(tree.engine.windowWord, UInt64(NVM_WINDOW_NONE))
    try walk()
    XCTAssertEqual(nvm_load_relaxed(tree.engine.windowWord), UInt64(NVM_WINDOW_TOP))
  }

  func testOrderIsThatOfAStableSort() {
    var random = SystemRandomNumberGenerator()
    var window: UInt32 = UInt32(NVM_WINDOW_TOP)
    var windows: Set<UInt32> = []
    var kind = 0
    for round in 0..<6_000 {
      if round % 40 == 0 { kind = round / 40 % 13 }
      let heads = heads(round % 7 == 6 ? Int.random(in: 0..<13, using: &random) : kind, &random)
      let slots = heads.indices.flatMap { [heads[$0], UInt64($0)] }
      var set = UInt32.random(in: 0...UInt32(NVM_LEAF_LIVE), using: &random)
      // As full as leaves are, and with few entries.
      if round % 3 == 0 { set |= UInt32.random(in: 0...UInt32(NVM_LEAF_LIVE), using: &random) }
      if round % 11 == 0 { set &= 0x1010_0111 }
      let members = heads.indices.filter { set >> UInt32($0) & 1 != 0 }
      let expected = members.sorted { (slots[2 * $0], $0) < (slots[2 * $1], $1) }

      var order = [UInt8](repeating: 0xFF, count: Int(NVM_SLOTS_MAX))
      let count = Int(nvm_slot_order(slots, set, &order))
      XCTAssertEqual(order[..<count].map(Int.init), expected, "set \(set), slots \(slots)")

      var pairs = [UInt64](repeating: 0, count: 2 * Int(NVM_SLOTS_MAX))
      let before = window
      let copied = Int(nvm_sort_slots(slots, set, &pairs, slots, &window))
      windows.insert(window)
      XCTAssertEqual(
        Array(pairs[..<(2 * copied)]), expected.flatMap { slots[2 * $0..<2 * $0 + 2] },
        "window \(before), set \(set), slots \(slots)")
    }
    // Each of them was met, where the processor has them at all.
    if windows.count > 1 {
      for window in 0...UInt32(NVM_WINDOW_TOP) { XCTAssert(windows.contains(window), "\(windows)") }
      XCTAssert(windows.contains(UInt32(NVM_WINDOW_NONE)))
    }
  }
}
