import CNVM
import Glibc
import XCTest

@testable import NVMRegion

/// The medium of ordinary files with a journal: what a crash leaves is a prefix of what was flushed, in whole batches.
final class JournaledFileTests: RegionTestCase {
  /// A small journal, whose checkpoints come often and on the thread that fills it.
  private var small: RegionOptions {
    var options = RegionOptions(media: .journaledFile)
    options.journalSize = 64 << 10
    options.journal.checkpointsInBackground = false
    return options
  }
  /// Where the ring stands in the file.
  private let ring = 8192 + 8192

  private func makeRegion(_ options: RegionOptions? = nil, size: Int = 1 << 20) throws -> PersistentRegion {
    unlink(path())
    return try PersistentRegion.create(at: path(), size: size, options: options ?? small)
  }
  private func reopen(_ options: RegionOptions? = nil) throws -> PersistentRegion {
    try PersistentRegion.open(at: path(), options: options ?? small)
  }

  /// A place for the i-th of some words that lie on many pages.
  private func spread(_ i: Int) -> Int { i * 4096 % (1 << 19) + i / 128 * 8 }

  // MARK: Content

  /// Words go through many laps of the ring; a file abandoned at any moment holds every fenced word, and of the others
  /// a prefix in the order of their flushes.
  func testAbandonedAtAnyMomentItHoldsAPrefix() throws {
    for isBackground in [false, true] {
      var options = small
      options.journal.checkpointsInBackground = isBackground
      var random = SystemRandomNumberGenerator()
      var region = try makeRegion(options)
      var words: [Int: UInt64] = [:]
      var stamp: UInt64 = 0
      for _ in 0..<20 {
        // What was flushed and not fenced yet, in order.
        var open: [(at: Int, value: UInt64)] = []
        for _ in 0..<Int.random(in: 1...3000, using: &random) {
          let at = Int.random(in: 0..<8192, using: &random) * 8
          stamp += 1
          region.store(stamp, at: region.payloadStart + at)
          region.flush(region.payloadStart + at, count: 8)
          open.append((at, stamp))
          if Int.random(in: 0..<40, using: &random) == 0 {
            try region.fence()
            for (at, value) in open { words[at] = value }
            open = []
          }
        }
        region.abandon()
        region = try reopen(options)
        var model = words
        var found = false
        func matches() -> Bool {
          model.allSatisfy { region.load(region.payloadStart + $0.key) == $0.value }
            && open.allSatisfy { region.load(region.payloadStart + $0.at) == model[$0.at] ?? 0 }
        }
        found = matches()
        for (at, value) in open where !found {
          model[at] = value
          found = matches()
        }
        XCTAssertTrue(found, "no prefix of what was flushed")
        words = model
      }
      try region.close()
      let last = try reopen(options)
      XCTAssertTrue(last.wasCleanlyClosed)
      for (at, value) in words { XCTAssertEqual(last.load(last.payloadStart + at), value) }
      try last.close()
    }
  }

  /// A store that was never flushed reaches the file by no way, a checkpoint of its page included.
  func testWhatIsNotFlushedStaysOut() throws {
    let region = try makeRegion()
    let at = region.payloadStart
    region.store(1, at: at)
    region.flush(at, count: 8)
    region.store(2, at: at + 8)
    try region.fence()
    try region.journal!.checkpointNow()
    region.store(3, at: at)
    try region.close()
    let again = try reopen()
    XCTAssertEqual(again.load(at), 1)
    XCTAssertEqual(again.load(at + 8), 0)
    try again.close()
  }

  func testLargeAndOddRanges() throws {
    let region = try makeRegion(size: 4 << 20)
    let start = region.payloadStart
    var model = [UInt8](repeating: 0, count: 2 << 20)
    var random = SystemRandomNumberGenerator()
    for _ in 0..<60 {
      let count = Int.random(in: 1...(1 << Int.random(in: 1...18, using: &random)), using: &random)
      let at = Int.random(in: 0...(model.count - count), using: &random)
      let bytes = (0..<count).map { _ in UInt8.random(in: 0 ... .max, using: &random) }
      bytes.withUnsafeBytes { region.writeFlushed($0, at: start + at) }
      model.replaceSubrange(at..<at + count, with: bytes)
      if Bool.random(using: &random) { try region.fence() }
    }
    region.flush(line: start + (3 << 20), words: 0)
    for (line, mask) in [0b1, 0b1010_0110, 0xFF, 0x80].enumerated() {
      let at = start + ((3 << 20) + line * 64)
      for i in 0..<8 { region.store(UInt64(i + 1), at: at + i * 8) }
      region.flush(line: at, words: UInt8(mask))
    }
    try region.fence()
    region.abandon()
    let again = try reopen()
    let found = UnsafeRawBufferPointer(start: again.pointer(to: start), count: model.count)
    XCTAssertTrue(found.elementsEqual(model))
    for (line, mask) in [0b1, 0b1010_0110, 0xFF, 0x80].enumerated() {
      for i in 0..<8 {
        XCTAssertEqual(
          again.load(start + ((3 << 20) + line * 64 + i * 8)), mask >> i & 1 == 1 ? UInt64(i + 1) : 0)
      }
    }
    try again.close()
  }

  // MARK: Atomic steps

  /// The journal cut after each sector of its last write: an atomic step is there whole or not at all.
  func testAtomicStepsAreOnePiece() throws {
    for isSection in [false, true] {
      var options = small
      options.journalSize = 1 << 20
      // Protected stores go one by one, through the caller's own log.
      options.protection = RegionProtection.none
      let region = try makeRegion(options)
      let start = region.payloadStart
      try region.storeDurable(7, at: start + 65536)
      let words = (0..<600).map { LogWord(offset: (start + $0 * 64).rawValue, value: 9) }
      if isSection {
        let isDeferring = region.journal!.beginDeferral(isAtomic: true)
        XCTAssertTrue(isDeferring)
        for word in words {
          region.store(9, at: Offset(rawValue: word.offset))
          region.flush(Offset(rawValue: word.offset), count: 8)
          // Waits for nothing: the section is still open.
          try region.fence()
        }
        region.journal!.endDeferral(isAtomic: true)
      } else {
        XCTAssertTrue(words.withUnsafeBufferPointer { region.commit($0) })
      }
      try region.fence()
      region.abandon()
      let whole = try bytes(of: path())
      var seen: Set<Bool> = []
      for sector in 0..<32 {
        var torn = whole
        let cut = ring + 512 * sector
        torn.replaceSubrange(
          cut..<ring + (32 << 10), with: repeatElement(0xA5, count: ring + (32 << 10) - cut))
        try put(torn, at: path())
        let again = try reopen(options)
        let values = Set(words.map { again.load(Offset(rawValue: $0.offset)) })
        XCTAssertEqual(values.count, 1, "torn at sector \(sector)")
        seen.insert(values == [9])
        if sector > 0 { XCTAssertEqual(again.load(start + 65536), 7) }
        again.abandon()
      }
      XCTAssertEqual(seen, [true, false])
    }
  }

  func testASectionLargerThanTheJournalIsAnError() throws {
    let region = try makeRegion()
    XCTAssertTrue(region.journal!.beginDeferral(isAtomic: true))
    region.fill(region.payloadStart, count: 200 << 10, with: 1)
    region.flush(region.payloadStart, count: 200 << 10)
    region.journal!.endDeferral(isAtomic: true)
    assertThrows(.outOfSpace, path: path(), mentioning: "larger journal") { try region.fence() }
    assertThrows(.poisoned, path: path()) { try region.checkUsable() }
    try region.close()
    let again = try reopen()
    for i in 0..<100 { XCTAssertEqual(again.load(again.payloadStart + i * 2048), 0) }
    try again.close()
  }

  // MARK: Recovery

  /// Read-only, and driven as any other medium, the file shows what only its journal has.
  func testAnyMediumFindsWhatTheJournalHolds() throws {
    for media in [RegionOptions.MediaChoice.journaledFile, .automatic, .inPlaceFile, .emulated] {
      let region = try makeRegion()
      let at = region.payloadStart + 4096
      for i in 0..<500 { try region.storeDurable(UInt64(i), at: at + i * 8) }
      region.abandon()
      let before = try bytes(of: path())
      let reader = try reopen(RegionOptions(media: media, access: .readOnly))
      XCTAssertEqual(reader.load(at + 3992), 499)
      try reader.close()
      XCTAssertEqual(try bytes(of: path()), before)
      let writer = try reopen(RegionOptions(media: media))
      XCTAssertFalse(writer.wasCleanlyClosed)
      XCTAssertEqual(writer.load(at + 3992), 499)
      try writer.storeDurable(1, at: at + 3992)
      writer.abandon()
      // What the other medium wrote is not undone by the old journal.
      let again = try reopen()
      XCTAssertEqual(again.load(at + 3992), 1)
      XCTAssertEqual(again.load(at + 3984), 498)
      try again.close()
    }
  }

  /// A batch flipped anywhere but at the end is damage, and said so; the last one, torn, never happened.
  func testDamagedBatches() throws {
    let region = try makeRegion()
    let at = region.payloadStart
    for i in 0..<20 { try region.storeDurable(UInt64(i + 1), at: at) }
    region.abandon()
    let whole = try bytes(of: path())
    // 32 bytes of head, 3 and 8 of a record of one word, a padding that is nobody's.
    let size = 48
    for i in stride(from: 0, to: 20 * size, by: 11) where i % size < 43 {
      var flipped = whole
      flipped[ring + i] ^= 1 << UInt8(i & 7)
      try put(flipped, at: path())
      if i < 19 * size {
        assertThrows(.corrupt, path: path(), mentioning: "journal", "left as it was") { try reopen() }
        XCTAssertEqual(try bytes(of: path()), flipped)
      } else {
        let again = try reopen()
        XCTAssertEqual(again.load(at), 19)
        again.abandon()
      }
    }
  }

  /// One copy of the journal's header may be lost; both are damage.
  func testHeaderCopies() throws {
    for copies in [[0], [1], [0, 1]] {
      var options = small
      options.journalSize = 24 << 10
      let region = try makeRegion(options)
      // Several laps.
      for i in 0..<900 { try region.storeDurable(UInt64(i), at: region.payloadStart + (i % 64) * 8) }
      let last = region.load(region.payloadStart + (899 % 64) * 8)
      region.abandon()
      var damaged = try bytes(of: path())
      for copy in copies { damaged[8192 + copy * 4096 + 24] ^= 4 }
      try put(damaged, at: path())
      if copies.count == 2 {
        assertThrows(.corrupt, path: path(), mentioning: "header") { try reopen(options) }
      } else {
        let again = try reopen(options)
        XCTAssertEqual(again.load(again.payloadStart + (899 % 64) * 8), last)
        try again.close()
      }
    }
  }

  // MARK: Threads

  /// Threads share syncs; each finds its own words after a crash, and nobody's are mixed.
  func testGroupCommit() throws {
    var options = small
    options.journal.checkpointsInBackground = true
    let region = try makeRegion(options)
    let threads = 8
    let rounds = 150
    onThreads(threads) { thread in
      for round in 1...rounds {
        let at = region.payloadStart + (thread * 4096 + round % 50 * 8)
        do throws(NVMError) { try region.storeDurable(UInt64(round), at: at) } catch { XCTFail("\(error)") }
      }
    }
    region.abandon()
    let again = try reopen(options)
    for thread in 0..<threads {
      for round in rounds - 49...rounds {
        XCTAssertEqual(again.load(again.payloadStart + (thread * 4096 + round % 50 * 8)), UInt64(round))
      }
    }
    try again.close()
  }

  /// A file is closed under threads that change it: what they were told is durable is there afterwards, and who came too
  /// late is told. A batch that is written beside the last checkpoint would be in a journal that nobody reads.
  func testWhatIsToldBesideACloseIsThere() throws {
    let threads = 4
    for turn in 0..<25 {
      var options = small
      options.journalSize = 1 << 20
      options.journal.checkpointsInBackground = turn % 2 == 0
      let region = try makeRegion(options)
      let told = Lock([UInt64](repeating: 0, count: threads))
      let began = Barrier(threads + 1)
      onThreads(threads + 1) { thread in
        began.wait()
        guard thread < threads else {
          usleep(UInt32(turn * 200))
          do throws(NVMError) { try region.close() } catch { XCTFail("\(error)") }
          return
        }
        let at = region.payloadStart + thread * 4096
        for value in UInt64(1)... {
          do throws(NVMError) { try region.storeDurable(value, at: at) } catch {
            return XCTAssertEqual(error.code, .closed)
          }
          told.withLock { $0[thread] = value }
        }
      }
      let again = try reopen(options)
      XCTAssert(again.wasCleanlyClosed)
      for (thread, value) in told.withLock({ $0 }).enumerated() {
        XCTAssertGreaterThanOrEqual(
          again.load(again.payloadStart + thread * 4096), value, "turn \(turn), thread \(thread)")
      }
      try again.close()
    }
  }

  /// Whatever has been appended when the first of them asks is durable after one sync.
  func testAllWhoWaitShareOneSync() throws {
    var options = RegionOptions(media: .journaledFile)
    options.journalSize = 1 << 20
    let region = try makeRegion(options)
    let threads = 6
    let rounds = 40
    let barrier = Barrier(threads)
    let before = try XCTUnwrap(region.journalStatistics)
    onThreads(threads) { thread in
      for round in 0..<rounds {
        let at = region.payloadStart + thread * 4096
        region.store(UInt64(round), at: at)
        region.flush(at, count: 8)
        barrier.wait()
        do throws(NVMError) { try region.fence() } catch { XCTFail("\(error)") }
        barrier.wait()
      }
    }
    let after = try XCTUnwrap(region.journalStatistics)
    XCTAssertEqual(after.syncs - before.syncs, UInt64(rounds))
    XCTAssertGreaterThanOrEqual(after.appended - before.appended, UInt64(rounds * threads * 8))
    XCTAssertEqual(after.checkpoints, 0)
    XCTAssertEqual(after.capacity, (1 << 20) - 8192)
    XCTAssertLessThanOrEqual(after.used, after.capacity)
    region.abandon()
  }

  /// Threads that waited together are expected back together; one that does not come keeps nobody for long, and those
  /// that come again and again all get through.
  func testWhoDoesNotComeBackIsNotWaitedFor() throws {
    let region = try makeRegion(size: 16 << 20)
    let threads = 6
    let barrier = Barrier(threads)
    onThreads(threads) { thread in
      barrier.wait()
      // Each leaves after a number of rounds of its own.
      for round in 0..<(thread + 1) * 60 {
        let at = region.payloadStart + thread * 4096
        do throws(NVMError) { try region.storeDurable(UInt64(round), at: at) } catch { XCTFail("\(error)") }
      }
    }
    region.abandon()
    let again = try reopen()
    for thread in 0..<threads {
      XCTAssertEqual(again.load(again.payloadStart + thread * 4096), UInt64((thread + 1) * 60 - 1))
    }
    try again.close()
  }

  /// More threads than slots share one, and each still waits for its own.
  func testThreadsThatShareASlot() throws {
    let region = try makeRegion(size: 16 << 20)
    let count = Int(NVM_THREAD_SLOTS) + 20
    let barrier = Barrier(count)
    onThreads(count) { thread in
      _ = nvm_thread_slot()
      barrier.wait()
      let at = region.payloadStart + thread * 64
      do throws(NVMError) { try region.storeDurable(UInt64(thread + 1), at: at) } catch {
        XCTFail("\(error)")
      }
      barrier.wait()
    }
    region.abandon()
    let again = try reopen()
    for thread in 0..<count {
      XCTAssertEqual(again.load(again.payloadStart + thread * 64), UInt64(thread + 1))
    }
    try again.close()
  }

  // MARK: Memory

  /// Limits of control groups of both versions, in containers too.
  func testMemoryLimits() {
    let top = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
    XCTAssertEqual(MemoryLimit.groupFiles(""), top)
    XCTAssertEqual(
      MemoryLimit.groupFiles("0::/a.slice/b:c\n"),
      top + ["/sys/fs/cgroup/a.slice/memory.max", "/sys/fs/cgroup/a.slice/b:c/memory.max"])
    XCTAssertEqual(
      MemoryLimit.groupFiles("9:cpu:/x\n8:hugetlb,memory:/j\n0::/\nnonsense\n"),
      top + ["/sys/fs/cgroup/memory/j/memory.limit_in_bytes"])
    XCTAssertGreaterThan(MemoryLimit.ofProcess, 0)
    XCTAssertLessThanOrEqual(
      MemoryLimit.ofProcess, sysconf(Int32(_SC_PHYS_PAGES)) * sysconf(Int32(_SC_PAGESIZE)))
  }

  /// Pages go back to the system while threads store, flush and read; nobody ever sees another word than the last one
  /// stored, flushed or not.
  func testPagesAreGivenBackUnderWriters() throws {
    var options = RegionOptions(media: .journaledFile)
    options.journalSize = 256 << 10
    options.journal.privatePages = 64
    let pages = 2048
    let region = try makeRegion(options, size: (pages + 16) * 4096)
    // What is never flushed stays in memory.
    for page in stride(from: 0, to: pages, by: 100) {
      region.store(77, at: region.payloadStart + page * 4096 + 4088)
    }
    let threads = 4
    onThreads(threads) { thread in
      var random = SystemRandomNumberGenerator()
      var mine: [Int: UInt64] = [:]
      for round in 1...6000 {
        let at =
          (Int.random(in: 0..<pages, using: &random) * 64 + Int.random(in: 0..<8, using: &random)) * 64
          + thread * 8
        if let known = mine[at] { XCTAssertEqual(region.load(region.payloadStart + at), known) }
        region.store(UInt64(round), at: region.payloadStart + at)
        mine[at] = UInt64(round)
        region.flush(region.payloadStart + at, count: 8)
        if round % 100 == 0 { do throws(NVMError) { try region.fence() } catch { XCTFail("\(error)") } }
      }
      for (at, value) in mine { XCTAssertEqual(region.load(region.payloadStart + at), value) }
    }
    try region.fence()
    try region.journal!.checkpointNow()
    XCTAssertLessThanOrEqual(region.journal!.privatePageCount, 64 + 8)
    for page in stride(from: 0, to: pages, by: 100) {
      XCTAssertEqual(region.load(region.payloadStart + page * 4096 + 4088), 77)
    }
    try region.close()
  }

  // MARK: Failure

  /// A failed sync is final, for every thread and every later call; what was acknowledged before is there.
  func testAFailedSyncIsFinal() throws {
    let region = try makeRegion()
    try region.storeDurable(1, at: region.payloadStart)
    region.store(2, at: region.payloadStart)
    region.flush(region.payloadStart, count: 8)
    XCTAssertTrue(
      SystemCall.withFault(.init(call: .dataSync, skip: 0, errno: EIO)) {
        assertThrows(.ioFailure, path: path(), mentioning: "may or may not", "open it again") {
          try region.fence()
        }
      })
    let retried = SystemCall.withFault(.init(call: .dataSync, skip: 0, errno: EIO)) {
      assertThrows(.poisoned, path: path()) { try region.checkUsable() }
      assertThrows(.poisoned, path: path()) { try region.storeDurable(3, at: region.payloadStart) }
      assertThrows(.poisoned, path: path()) { try region.grow(toAtLeast: 8 << 20) }
    }
    XCTAssertFalse(retried, "a failed write was tried again")
    try region.close()
    let again = try reopen()
    XCTAssertFalse(again.wasCleanlyClosed)
    XCTAssertTrue([1, 2].contains(again.load(again.payloadStart)))
    try again.close()
  }

  /// Every system call of a checkpoint fails in turn: the journal still has everything.
  func testEveryFaultOfACheckpoint() throws {
    for call in [SystemCall.read, .write, .dataSync] {
      for skip in 0..<10 {
        let region = try makeRegion()
        for i in 0..<300 { try region.storeDurable(UInt64(i), at: region.payloadStart + spread(i)) }
        let wanted = (0..<300).map { region.load(region.payloadStart + spread($0)) }
        let hit = SystemCall.withFault(.init(call: call, skip: skip, errno: EIO)) {
          do throws(NVMError) {
            try region.journal!.checkpointNow()
          } catch {
            XCTAssertEqual(error.code, .ioFailure)
          }
        }
        if hit {
          assertThrows(.ioFailure, path: path()) { try region.storeDurable(1, at: region.payloadStart) }
        }
        region.abandon()
        let again = try reopen()
        for i in 0..<300 {
          XCTAssertEqual(again.load(again.payloadStart + spread(i)), wanted[i])
        }
        try again.close()
        if !hit { break }
      }
    }
  }

  // MARK: Cost

  /// A small step costs the device at most two pages.
  func testBytesWrittenForASmallSync() throws {
    var options = RegionOptions(media: .journaledFile)
    options.journalSize = 8 << 20
    let region = try makeRegion(options)
    func written() throws -> Int {
      let line = try XCTUnwrap(
        String(decoding: bytes(of: "/proc/self/io"), as: UTF8.self).split(separator: "\n")
          .first { $0.hasPrefix("write_bytes") })
      return Int(line.split(separator: " ")[1])!
    }
    try region.storeDurable(1, at: region.payloadStart)
    let before = try written()
    for i in 0..<200 { try region.storeDurable(UInt64(i), at: region.payloadStart + spread(i)) }
    let total = try written() - before
    XCTAssertLessThanOrEqual(total, 200 * 8192)
    region.abandon()
  }
}
