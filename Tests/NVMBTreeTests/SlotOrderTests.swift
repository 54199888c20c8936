import CNVM
import XCTest

/// The order of a leaf's slots, which is worked out in C by whatever vectors the processor has.
final class SlotOrderTests: XCTestCase {
  func testOrderIsThatOfAStableSort() {
    var random = SystemRandomNumberGenerator()
    for round in 0..<2_000 {
      // Few different heads, so that many tie; in other rounds the whole range, whose upper half is negative to a signed
      // compare.
      let range = round % 2 == 0 ? 0...UInt64(round % 40) : 0...UInt64.max
      let slots = (0..<Int(NVM_LEAF_SLOTS)).flatMap { slot in
        [UInt64.random(in: range, using: &random), UInt64(slot)]
      }
      let set = UInt32.random(in: 0...UInt32(NVM_LEAF_LIVE), using: &random)
      let members = (0..<Int(NVM_LEAF_SLOTS)).filter { set >> UInt32($0) & 1 != 0 }
      let expected = members.sorted { (slots[2 * $0], $0) < (slots[2 * $1], $1) }

      var order = [UInt8](repeating: 0xFF, count: Int(NVM_SLOTS_MAX))
      let count = Int(nvm_slot_order(slots, set, &order))
      XCTAssertEqual(order[..<count].map(Int.init), expected, "set \(set), slots \(slots)")

      var pairs = [UInt64](repeating: 0, count: 2 * Int(NVM_SLOTS_MAX))
      let copied = Int(nvm_sort_slots(slots, set, &pairs, slots))
      XCTAssertEqual(
        Array(pairs[..<(2 * copied)]), expected.flatMap { slots[2 * $0..<2 * $0 + 2] },
        "set \(set), slots \(slots)")
    }
  }
}
