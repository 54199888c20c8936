import CNVM
import Glibc
import NVMRegion
import XCTest

/// The medium of ordinary files: pages noted by each thread, synced by that thread's fence; a failed sync is final.
final class InPlaceFileTests: RegionTestCase {
  private let options = RegionOptions(media: .inPlaceFile)

  private func makeRegion() throws -> PersistentRegion {
    try PersistentRegion.create(at: path(), size: 1 << 20, options: options)
  }

  /// How many msync calls `body` makes: the smallest n for which a failure of call n is not met. Each try
  /// runs on a region of its own, which the failure spoils.
  private func msyncs(_ body: (PersistentRegion) throws(NVMError) -> Void) throws -> Int {
    for n in 0..<100 {
      unlink(path())
      let region = try makeRegion()
      let hit = SystemCall.withFault(.init(call: .msync, skip: n, errno: EIO)) { try? body(region) }
      region.abandon()
      if !hit { return n }
    }
    return -1
  }

  func testPagesAreMergedIntoRanges() throws {
    func page(_ region: PersistentRegion, _ n: Int) -> Offset { region.payloadStart + n * 4096 }
    let cases: [(expected: Int, pages: [Range<Int>])] = [
      (0, []), (1, [0..<1]), (1, [0..<1, 0..<1, 0..<1]), (1, [3..<4, 2..<3, 1..<2]), (1, [0..<9]),
      (2, [0..<1, 2..<3]), (2, [7..<9, 0..<2, 8..<12, 1..<2]), (3, [20..<21, 0..<1, 10..<11, 20..<22]),
      (1, [5..<6, 0..<20, 19..<20]),
    ]
    for (expected, pages) in cases {
      let count = try msyncs { (region) throws(NVMError) in
        for range in pages { region.flush(page(region, range.lowerBound), count: range.count * 4096) }
        try region.fence()
        // Settled: a second fence has nothing to do.
        try region.fence()
      }
      XCTAssertEqual(count, expected, "\(pages)")
    }
    // Bytes on both sides of a page boundary.
    XCTAssertEqual(try msyncs { (r) throws(NVMError) in try r.persist(page(r, 1) - 1, count: 2) }, 1)
    XCTAssertEqual(try msyncs { (r) throws(NVMError) in try r.storeDurable(1, at: r.payloadStart) }, 1)
    XCTAssertEqual(
      try msyncs { (r) throws(NVMError) in
        [UInt8](repeating: 1, count: 9000).withUnsafeBytes { r.writeFlushed($0, at: r.payloadStart) }
        try r.order()
      }, 1)
  }

  func testFenceSyncsOnlyTheThreadsOwnPages() throws {
    let region = try makeRegion()
    region.store(1, at: region.payloadStart)
    region.flush(region.payloadStart, count: 8)
    onThreads(1) { _ in
      // Another thread: nothing noted, so nothing to sync; then one page of its own.
      XCTAssertFalse(SystemCall.withFault(.init(call: .msync, skip: 0, errno: EIO)) { try? region.fence() })
      region.flush(region.payloadStart + 64 * 4096, count: 8)
      XCTAssertFalse(SystemCall.withFault(.init(call: .msync, skip: 1, errno: EIO)) { try? region.fence() })
    }
    try region.checkUsable()
    XCTAssertTrue(SystemCall.withFault(.init(call: .msync, skip: 0, errno: EIO)) { try? region.fence() })
    region.abandon()
  }

  func testAFailedSyncIsFinal() throws {
    for call in ["fence", "order", "persist", "storeDurable"] {
      unlink(path())
      let region = try makeRegion()
      region.store(1, at: region.payloadStart)
      try region.persist(region.payloadStart, count: 8)
      region.store(2, at: region.payloadStart)
      region.flush(region.payloadStart, count: 8)
      let hit = SystemCall.withFault(.init(call: .msync, skip: 0, errno: EIO)) {
        let error = assertThrows(.ioFailure, path: path(), mentioning: "Input/output error", "open it again")
        {
          switch call {
          case "fence": try region.fence()
          case "order": try region.order()
          case "persist": try region.persist(region.payloadStart, count: 8)
          default: try region.storeDurable(2, at: region.payloadStart)
          }
        }
        XCTAssertEqual(error?.errno, EIO)
        XCTAssertEqual(error?.offset, region.payloadStart.rawValue)
      }
      XCTAssertTrue(hit)
      // Never retried, and said by every later call of every thread.
      let retried = SystemCall.withFault(.init(call: .msync, skip: 0, errno: EIO)) {
        for body in [
          { try region.checkUsable() }, { try region.checkWritable() }, { try region.fence() },
          { try region.order() }, { try region.persist(region.payloadStart, count: 8) },
          { try region.storeDurable(1, at: region.payloadStart) }, { try region.grow(toAtLeast: 2 << 20) },
        ] as [() throws -> Void] {
          let error = assertThrows(.poisoned, path: path(), mentioning: "Input/output error") { try body() }
          XCTAssertEqual((error?.underlying as? NVMError)?.code, .ioFailure)
        }
        onThreads(1) { _ in
          do throws(NVMError) {
            try region.fence()
            XCTFail("acknowledged")
          } catch {
            XCTAssertEqual(error.code, .poisoned)
          }
        }
      }
      XCTAssertFalse(retried)
      // Closing works, without the clean mark.
      try region.close()
      assertThrows(.closed, path: path()) { try region.checkUsable() }
      let again = try PersistentRegion.open(at: path(), options: options)
      XCTAssertFalse(again.wasCleanlyClosed)
      XCTAssertTrue([1, 2].contains(again.load(again.payloadStart)))
      try again.close()
    }
  }

  /// A sync fails while four threads sync: each thread gets at most successes, then only errors; nobody's
  /// success follows the failure.
  func testOneFailureStopsAllThreads() throws {
    for skip in [0, 1, 7, 40] {
      unlink(path())
      let region = try makeRegion()
      let hit = SystemCall.withFault(.init(call: .msync, skip: skip, errno: EIO)) {
        onThreads(4) { thread in
          var failed = false
          for round in 0..<50 {
            do throws(NVMError) {
              let at = region.payloadStart + thread * 8192
              region.store(UInt64(round), at: at)
              try region.persist(at, count: 8)
              if failed { XCTFail("acknowledged after a failure") }
            } catch {
              failed = true
              XCTAssertTrue([.ioFailure, .poisoned].contains(error.code), "\(error)")
            }
          }
          XCTAssertTrue(failed, "skip \(skip) thread \(thread)")
        }
      }
      XCTAssertTrue(hit)
      region.abandon()
    }
  }

  /// A fence that had begun before another one failed, and so was not stopped by the region, is stopped by
  /// the medium: the kernel would report success for pages that are lost.
  func testFailureIsFinalInTheMediumToo() throws {
    for growing in [false, true] {
      let medium = InPlaceFileMedium()
      let region = try PersistentRegion.inMemory(
        image: nil, size: 1 << 16, maximumSize: 1 << 16, medium: medium)
      let p = region.pointer(to: region.payloadStart)
      medium.flush(p, count: 8)
      let hit = SystemCall.withFault(.init(call: growing ? .sync : .msync, skip: 0, errno: EIO)) {
        if growing {
          XCTAssertEqual(medium.sync(-1), -EIO)
        } else {
          assertThrows(.ioFailure, path: "(memory)") { try medium.fence() }
        }
      }
      XCTAssertTrue(hit)
      medium.flush(p, count: 8)
      let retried = SystemCall.withFault(.init(call: nil, skip: 0, errno: EINVAL)) {
        assertThrows(.ioFailure, path: "(memory)") { try medium.fence() }
        assertThrows(.ioFailure, path: "(memory)") { try medium.order() }
        XCTAssertEqual(medium.sync(-1), -EIO)
      }
      XCTAssertFalse(retried)
    }
  }

  /// More threads than slots: those beyond share slot 0, and a fence of one still settles its own pages.
  func testThreadsThatShareASlot() throws {
    let region = try PersistentRegion.create(at: memoryPath(), size: 16 << 20, options: options)
    let before = region.counters
    let count = Int(NVM_THREAD_SLOTS) + 60
    let barrier = Barrier(count)
    onThreads(count) { thread in
      _ = nvm_thread_slot()
      barrier.wait()
      for round in 1...3 {
        let at = region.payloadStart + thread * 4096
        region.store(UInt64(round), at: at)
        do throws(NVMError) { try region.persist(at, count: 8) } catch { XCTFail("\(error)") }
      }
      barrier.wait()
    }
    let counts = region.counters - before
    XCTAssertEqual(counts.fences, UInt64(3 * count), "counts of the shared slot are atomic")
    XCTAssertEqual(counts.bytes, UInt64(24 * count))
    region.abandon()
    let again = try PersistentRegion.open(at: memoryPath(), options: options)
    for thread in 0..<count { XCTAssertEqual(again.load(again.payloadStart + thread * 4096), 3) }
    try again.close()
  }
}
