import Foundation
import NVM
import XCTest

/// Many values in one call on a journaled file, where each group of them is an atomic step.
final class BatchTests: StoreTestCase {
  private var journaled: NVMStoreOptions {
    var options = options
    options.media = .journaledFile
    options.journalSize = 1 << 20
    return options
  }

  /// A value that is there is stored in its place: its word and the leaf's sums.
  func testOverwritingTakesFewBytes() throws {
    let store = try NVMStore(path: path(), options: journaled)
    let tree = try store.tree("t", of: UInt64.self, UInt64.self)
    try tree.updateValues((0..<5000).map { ($0 &* 0x9E37_79B9_7F4A_7C15, $0) })
    func appended() throws -> UInt64 { try XCTUnwrap(store.region.journalStatistics).appended }
    let before = try appended()
    try tree.updateValues((0..<5000).map { ($0 &* 0x9E37_79B9_7F4A_7C15, $0 + 1) })
    let each = Double(try appended() - before) / 5000
    // Two words, and less than four bytes to say where each of them stands.
    XCTAssertLessThan(each, 24)
    XCTAssertGreaterThan(each, 8)
    store.abandon()
    let again = try NVMStore.open(path: path(), options: journaled)
    let same = try again.tree("t", of: UInt64.self, UInt64.self)
    for i in 0..<5000 as Range<UInt64> { XCTAssertEqual(try same[i &* 0x9E37_79B9_7F4A_7C15], i + 1) }
    try assertClean(again)
  }

  /// One call changes many times what the journal holds, beside other threads with calls and transactions of their own.
  func testCallsLargerThanTheJournal() throws {
    let store = try NVMStore(path: path(), options: journaled)
    let tree = try store.tree("t", of: UInt64.self, UInt64.self)
    let threads = 4
    DispatchQueue.concurrentPerform(iterations: threads) { thread in
      do {
        for round in 0..<3 as Range<UInt64> {
          let own = UInt64(thread) << 32
          if thread == 3 {
            for i in 0..<500 as Range<UInt64> {
              try store.write { tx in
                for j in 0..<4 as Range<UInt64> { try tx[tree].setValue(round, forKey: own | i * 4 + j) }
              }
            }
          } else {
            // The last 1000 keys are everybody's.
            try tree.updateValues(
              (0..<30_000).lazy.map { i in (i < 29_000 ? own | i : i, i < 29_000 ? round : i) })
          }
        }
      } catch {
        XCTFail("thread \\(thread): \\(error)")
      }
    }
    XCTAssertGreaterThan(try XCTUnwrap(store.region.journalStatistics).checkpoints, 3)
    // Thread 0's keys and everybody's are one range.
    XCTAssertEqual(tree.count, 30_000 + 2 * 29_000 + 2000)
    store.abandon()
    let again = try NVMStore.open(path: path(), options: journaled)
    let same = try again.tree("t", of: UInt64.self, UInt64.self)
    XCTAssertEqual(same.count, 90_000)
    try same[...].forEach { XCTAssertEqual($0.value, (29_000..<30_000).contains($0.key) ? $0.key : 2) }
    try assertClean(again)
  }
}
