import Foundation
import NVM
import XCTest

@testable import NVMBTree

/// The gate by itself: who passes in which state. (With threads: `TransactionTests`.)
final class GateTests: StoreTestCase {
  func testReadersLookAgain() throws {
    let gate = TreeGate()
    defer { gate.deallocate() }
    gate.use()
    let before = try gate.ticket()
    XCTAssert(gate.isCurrent(before))
    try gate.hold()
    XCTAssert(gate.isCurrent(before), "readers go on while a transaction only reads")
    gate.beginApplying()
    XCTAssertFalse(gate.isCurrent(before), "what was read while changes went in counts")
    XCTAssertEqual(try gate.ticket() & 1, 1, "the holder's own reads wait for nobody")
    gate.endApplying()
    XCTAssertFalse(gate.isCurrent(before))
    let after = try gate.ticket()
    XCTAssert(gate.isCurrent(after))
    gate.release()
    XCTAssert(gate.isCurrent(after))
  }

  func testWriters() throws {
    let gate = TreeGate()
    defer { gate.deallocate() }
    XCTAssertNil(try gate.enter(), "no transactions, no counting")
    gate.use()
    let stripe = try gate.enter()
    XCTAssertNotNil(stripe)
    gate.leave(stripe)
    try gate.hold()
    assertThrows(.invalidArgument) { try gate.enter() }
    gate.beginApplying()
    XCTAssertNil(try gate.enter(), "the transaction's own changes pass")
    gate.endApplying()
    gate.release()
    gate.leave(try gate.enter())
    try gate.hold()
    gate.remove()
    XCTAssert(gate.isRemoved)
    assertThrows(.closed) { try gate.enter() }
    assertThrows(.closed) { try gate.ticket() }
    assertThrows(.closed) { try gate.hold() }
  }

  /// `hold` returns when the last writer has left, and writers wait until `release`.
  func testWaiting() throws {
    let gate = TreeGate()
    gate.use()
    let total = UnsafeMutablePointer<Int>.allocate(capacity: 1)
    total.initialize(to: 0)
    defer {
      gate.deallocate()
      total.deallocate()
    }
    nonisolated(unsafe) let sum = total
    DispatchQueue.concurrentPerform(iterations: 4) { thread in
      do {
        for _ in 0..<500 {
          if thread == 0 {
            // Alone: a plain read and write lose nothing.
            try gate.hold()
            sum.pointee += 1
            gate.release()
          } else if thread == 1 {
            try gate.hold()
            let old = sum.pointee
            sched_yield()
            sum.pointee = old + 1
            gate.release()
          } else {
            let stripe = try gate.enter()
            _ = sum.pointee
            gate.leave(stripe)
          }
        }
      } catch {
        XCTFail("\(error)")
      }
    }
    XCTAssertEqual(total.pointee, 1000)
  }
}
