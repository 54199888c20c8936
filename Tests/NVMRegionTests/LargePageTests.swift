import CNVM
import Glibc
import XCTest

@testable import NVMRegion

/// Windows of a journaled file in large pages: nobody sees another word than the last one stored, whichever way a window
/// goes, and what is on the disk has nothing to do with it.
final class LargePageTests: RegionTestCase {
  private static let window = 2 << 20

  override func setUpWithError() throws {
    try super.setUpWithError()
    try XCTSkipIf(getenv("NVM_PROTECTION") != nil, "A protected region gets no large pages.")
    guard let page = nvm_map_large_page(Self.window) else {
      throw XCTSkip("the system gives no large pages")
    }
    munmap(page, Self.window)
  }

  /// - Parameter pages: that may be private; half of them in windows.
  private func options(pages: Int) -> RegionOptions {
    var options = RegionOptions(media: .journaledFile)
    options.journalSize = 256 << 10
    options.journal.privatePages = pages
    return options
  }
  private func makeRegion(_ options: RegionOptions, windows: Int) throws -> PersistentRegion {
    try PersistentRegion.create(at: path(), size: windows * Self.window, options: options)
  }
  private func waitForWishes(_ region: PersistentRegion) {
    while region.journal!.hasOpenWishes { usleep(200) }
  }
  private static func large(_ region: PersistentRegion) -> Int { region.journalStatistics!.largePages }
  private func payload(_ region: PersistentRegion) -> Int { region.size - region.payloadStart.bytes }
  /// The words that nobody flushes, one in each hundredth page.
  private func unflushed(_ region: PersistentRegion) -> [Offset] {
    stride(from: 4088, to: payload(region), by: 409_600).map { region.payloadStart + $0 }
  }

  /// Threads store, flush and read at random places of a range of pages, each its own words, until `isOver`.
  private static func work(
    _ region: PersistentRegion, threads: Int = 3, pages: Range<Int>, rounds: Int,
    beside: @escaping @Sendable (Int) -> Void = { _ in }
  ) {
    onThreads(threads) { thread in
      var random = SystemRandomNumberGenerator()
      var mine: [Int: UInt64] = [:]
      let start = region.payloadStart
      for round in 1...rounds {
        let page = Int.random(in: pages, using: &random)
        let at = page * 4096 + Int.random(in: 0..<8, using: &random) * 64 + thread * 8
        if let known = mine[at] { XCTAssertEqual(region.load(start + at), known) }
        region.store(UInt64(round), at: start + at)
        mine[at] = UInt64(round)
        region.flush(start + at, count: 8)
        if round % 200 == 0 {
          do throws(NVMError) { try region.fence() } catch { XCTFail("\(error)") }
          beside(round)
        }
      }
      for (at, value) in mine { XCTAssertEqual(region.load(start + at), value) }
      do throws(NVMError) { try region.fence() } catch { XCTFail("\(error)") }
    }
  }

  /// No writer is at work: as many pages count as private as are noted as such.
  private func checkCount(_ region: PersistentRegion, line: UInt = #line) {
    let journal = region.journal!
    let pages = journal.privatePages!
    journal.lock()
    defer { journal.unlock() }
    while journal.tail.pointee.isCheckpointing || journal.tail.pointee.isEnlarging { journal.wait() }
    let noted = (0..<region.size / 4096).count { nvm_load_relaxed(pages.position($0)) != 0 }
    XCTAssertEqual(pages.privateCount, noted, line: line)
  }

  /// What is in the file after closing is what was in memory, but for words that were never flushed.
  private func checkFile(_ region: PersistentRegion, line: UInt = #line) throws {
    let start = region.payloadStart
    for at in unflushed(region) { XCTAssertEqual(region.load(at), 77, line: line) }
    checkCount(region, line: line)
    let words = stride(from: 0, to: payload(region), by: 56).filter { $0 % 409_600 != 4088 }
    let wanted = words.map { region.load(start + $0) }
    try region.close()
    let again = try PersistentRegion.open(at: path(), options: options(pages: 64))
    XCTAssertTrue(again.wasCleanlyClosed, line: line)
    XCTAssertTrue(zip(words, wanted).allSatisfy { again.load(start + $0) == $1 }, line: line)
    try again.close()
  }

  func testWindowsAreMadeBesideReadersAndWriters() throws {
    let region = try makeRegion(options(pages: 16 * 512), windows: 8)
    for at in unflushed(region) { region.store(77, at: at) }
    let all = payload(region)
    Self.work(region, pages: 0..<all / 4096, rounds: 4000) { round in
      // A window after the other.
      let at = round / 200 % 8 * Self.window
      if at < all { region.useLargePages(region.payloadStart + at, count: min(Self.window, all - at)) }
    }
    waitForWishes(region)
    // Neither the window of the journal's end nor the one that the region ends in, where they are not whole.
    XCTAssertGreaterThanOrEqual(Self.large(region), 7)
    XCTAssertLessThanOrEqual(Self.large(region), 8)
    XCTAssertGreaterThanOrEqual(region.journal!.privatePageCount, Self.large(region) * 512)
    Self.work(region, pages: 0..<all / 4096, rounds: 2000)
    try checkFile(region)
  }

  /// A crash with windows in large pages leaves what any crash does: everything that was fenced.
  func testACrashLeavesWhatWasFenced() throws {
    let region = try makeRegion(options(pages: 16 * 512), windows: 4)
    region.useLargePages(region.payloadStart, count: payload(region))
    waitForWishes(region)
    XCTAssertGreaterThan(Self.large(region), 0)
    for i in 0..<2000 {
      region.store(UInt64(i + 1), at: region.payloadStart + i * 4096)
      region.flush(region.payloadStart + i * 4096, count: 8)
    }
    try region.fence()
    region.store(1, at: region.payloadStart + 8)
    region.abandon()
    let again = try PersistentRegion.open(at: path(), options: options(pages: 64))
    for i in 0..<2000 { XCTAssertEqual(again.load(again.payloadStart + i * 4096), UInt64(i + 1)) }
    XCTAssertEqual(again.load(again.payloadStart + 8), 0)
    try again.close()
  }

  /// Pages outside become private until there are too many: the windows go back, with writers and readers in them, and
  /// keep what was never flushed.
  func testWindowsGoBackWhenMemoryIsShort() throws {
    let pages = 8 * 512
    let region = try makeRegion(options(pages: pages), windows: 24)
    for at in unflushed(region) { region.store(77, at: at) }
    let start = region.payloadStart
    region.useLargePages(start, count: 3 * Self.window)
    waitForWishes(region)
    XCTAssertGreaterThanOrEqual(Self.large(region), 3)
    let isOver = Lock(false)
    let all = payload(region)
    onThreads(2) { thread in
      if thread == 0 {
        Self.work(region, threads: 2, pages: 0..<3 * 512, rounds: 6000)
        isOver.withLock { $0 = true }
      } else {
        var page = 4 * 512
        while !isOver.withLock({ $0 }) || Self.large(region) > 0 {
          let at = start + (page * 4096 + 3000 / 8 * 8)
          region.store(UInt64(page), at: at)
          region.flush(at, count: 8)
          page = page + 1 < all / 4096 ? page + 1 : 4 * 512
          guard page % 64 == 0 else { continue }
          do throws(NVMError) { try region.fence() } catch { return XCTFail("\(error)") }
        }
      }
    }
    XCTAssertEqual(Self.large(region), 0)
    try region.fence()
    try region.journal!.checkpointNow()
    XCTAssertLessThanOrEqual(region.journal!.privatePageCount, pages)
    // There are no more of them.
    region.useLargePages(start, count: Self.window)
    waitForWishes(region)
    XCTAssertEqual(Self.large(region), 0)
    try checkFile(region)
  }

  func testAStoreLargerThanItsMemoryGetsNone() throws {
    let region = try makeRegion(options(pages: 8 * 512), windows: 12)
    for at in unflushed(region) { region.store(77, at: at) }
    region.useLargePages(region.payloadStart, count: payload(region))
    waitForWishes(region)
    XCTAssertEqual(Self.large(region), 0)
    region.useLargePages(region.payloadStart, count: Self.window)
    waitForWishes(region)
    XCTAssertEqual(Self.large(region), 0)
    try checkFile(region)
  }

  func testProtectedRegionsKeepSmallPages() throws {
    var options = options(pages: 16 * 512)
    options.protection = .deferred(interval: .milliseconds(1))
    let region = try makeRegion(options, windows: 4)
    region.useLargePages(region.payloadStart, count: payload(region))
    waitForWishes(region)
    XCTAssertEqual(Self.large(region), 0)
    try region.close()
  }

  func testGrowthBesideWindows() throws {
    let region = try makeRegion(options(pages: 32 * 512), windows: 3)
    region.useLargePages(region.payloadStart, count: payload(region))
    var model: [Int: UInt64] = [:]
    for step in 1...5 {
      let old = payload(region)
      for at in stride(from: 0, to: old, by: 4096 * 3) {
        region.store(UInt64(at + step), at: region.payloadStart + at)
        region.flush(region.payloadStart + at, count: 8)
        model[at] = UInt64(at + step)
      }
      try region.grow(toAtLeast: region.size + Self.window + 4096 * step)
      region.useLargePages(region.payloadStart + old, count: payload(region) - old)
      XCTAssertTrue(model.allSatisfy { region.load(region.payloadStart + $0) == $1 })
      XCTAssertEqual(region.load(region.payloadStart + (payload(region) - 8)), 0)
    }
    waitForWishes(region)
    XCTAssertGreaterThanOrEqual(Self.large(region), 5)
    XCTAssertTrue(model.allSatisfy { region.load(region.payloadStart + $0) == $1 })
    try region.fence()
    try region.close()
    let again = try PersistentRegion.open(at: path(), options: options(pages: 64))
    XCTAssertTrue(model.allSatisfy { again.load(again.payloadStart + $0) == $1 })
    try again.close()
  }

  /// Where the system refuses, everything stays as it was.
  func testEveryRefusalLeavesSmallPages() throws {
    for call in [SystemCall.map, .move] {
      unlink(path())
      let region = try makeRegion(options(pages: 16 * 512), windows: 4)
      for at in unflushed(region) { region.store(77, at: at) }
      XCTAssertTrue(
        SystemCall.withFault(.init(call: call, skip: 0, errno: ENOMEM)) {
          region.useLargePages(region.payloadStart, count: payload(region))
          waitForWishes(region)
        }, "\(call) was not made")
      XCTAssertEqual(Self.large(region), 0)
      XCTAssertEqual(region.journal!.privatePageCount, 0)
      try checkFile(region)
    }
  }

  /// Where windows cannot go back they stay, whole.
  func testARefusalToGoBackKeepsTheWindow() throws {
    for call in [SystemCall.map, .move, .read] {
      unlink(path())
      let region = try makeRegion(options(pages: 8 * 512), windows: 24)
      for at in unflushed(region) { region.store(77, at: at) }
      region.useLargePages(region.payloadStart, count: 2 * Self.window)
      waitForWishes(region)
      let windows = Self.large(region)
      XCTAssertGreaterThanOrEqual(windows, 2)
      let pages = region.journal!.privatePages!
      // As after a change of each page.
      region.journal!.lock()
      for page in 12 * 512..<20 * 512 { pages.note(page * 512, 1, 1) }
      region.journal!.unlock()
      XCTAssertTrue(
        SystemCall.withFault(.init(call: call, skip: 0, errno: EIO)) {
          pages.giveBackWindows(
            region.baseAddress, size: region.size, home: .max, file: region.journal!.area.file,
            locked: { $0() })
        })
      XCTAssertGreaterThanOrEqual(Self.large(region), windows - (call == .move ? 1 : 0))
      try checkFile(region)
    }
  }

  /// The kernel may unmap a window and then lack the memory to move another mapping there. Readers wait until it has
  /// succeeded, both ways, and see the bytes that they saw before.
  func testReadersWaitWhereAMoveFailsHalfWay() throws {
    try skipUnderThreadSanitizer()
    let region = try makeRegion(options(pages: 8 * 512), windows: 24)
    for at in unflushed(region) { region.store(77, at: at) }
    let start = region.payloadStart
    let pages = 3 * 512
    for page in 0..<pages { region.store(UInt64(page) + 1, at: start + page * 4096) }
    let isOver = Lock(false)
    onThreads(3) { thread in
      if thread == 0 {
        region.useLargePages(start, count: 3 * Self.window)
        var hits = 0
        while region.journal!.hasOpenWishes {
          // A window after the other.
          if SystemCall.withFault(.init(call: .moveMidway, skip: 0, errno: 0), { usleep(3000) }) { hits += 1 }
        }
        XCTAssertGreaterThan(hits, 0)
        XCTAssertGreaterThanOrEqual(Self.large(region), 3)
        let privatePages = region.journal!.privatePages!
        region.journal!.lock()
        for page in 12 * 512..<20 * 512 { privatePages.note(page * 512, 1, 1) }
        region.journal!.unlock()
        XCTAssertTrue(
          SystemCall.withFault(.init(call: .moveMidway, skip: 0, errno: 0)) {
            privatePages.giveBackWindows(
              region.baseAddress, size: region.size, home: .max, file: region.journal!.area.file,
              locked: { $0() })
          })
        XCTAssertEqual(Self.large(region), 0)
        isOver.withLock { $0 = true }
      } else {
        while !isOver.withLock({ $0 }) {
          for page in 0..<pages where region.load(start + page * 4096) != UInt64(page) + 1 {
            return XCTFail("page \(page)")
          }
        }
      }
    }
    for at in unflushed(region) { XCTAssertEqual(region.load(at), 77) }
    region.abandon()
  }

  func testForkedChildrenKeepWhatTheySaw() throws {
    let region = try makeRegion(options(pages: 64), windows: 4)
    try region.close()
    XCTAssertEqual(try helper("fork-large", path()), "ok child 0 large true")
  }
}
