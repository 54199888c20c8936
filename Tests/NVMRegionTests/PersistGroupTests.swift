import CNVM
import Foundation
import NVMRegion
import Synchronization
import XCTest

/// Persist groups against a medium that knows of every line what is certain to survive.
final class PersistGroupTests: RegionTestCase {
  /// Lines as they survive: what a thread flushed and then fenced itself.
  private final class ExactMedium: RegionMedium, @unchecked Sendable {
    private let lock = NSLock()
    private var base = UnsafeMutableRawPointer(bitPattern: 8)!
    /// A line's content, and which flush took it: content that comes late never replaces newer.
    private struct Version {
      var number: Int
      var bytes: [UInt8]
    }
    private var flushes = 0
    private var flushed: [Int32: [Int: Version]] = [:]
    private var durable: [Int: Version] = [:]

    func attach(base: UnsafeMutableRawPointer, path: String) { self.base = base }
    func store(_ word: UInt64, at p: UnsafeMutableRawPointer) { nvm_store_release(p, word) }
    func storeNontemporal(_ word: UInt64, at p: UnsafeMutableRawPointer) {
      store(word, at: p)
      flush(p, count: 8)
    }
    func write(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
      if let from = source.baseAddress { p.copyMemory(from: from, byteCount: source.count) }
    }
    func writeNontemporal(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
      write(source, at: p)
      flush(p, count: source.count)
    }
    func fill(_ byte: UInt8, count: Int, at p: UnsafeMutableRawPointer) { memset(p, Int32(byte), count) }
    private func content(_ line: Int) -> [UInt8] {
      [UInt8](UnsafeRawBufferPointer(start: base + line * 64, count: 64))
    }
    func flush(_ p: UnsafeMutableRawPointer, count: Int) {
      lock.withLock {
        for line in (p - base) / 64...(p - base + count - 1) / 64 {
          flushes += 1
          flushed[nvm_thread_slot(), default: [:]][line] = Version(number: flushes, bytes: content(line))
        }
      }
    }
    func order() throws(NVMError) { settle() }
    func fence() throws(NVMError) { settle() }
    /// Asked while a fence is under way.
    var duringFence: () -> Void = {}
    private func settle() {
      duringFence()
      lock.withLock {
        for (line, version) in flushed.removeValue(forKey: nvm_thread_slot()) ?? [:]
        where version.number > durable[line]?.number ?? 0 {
          durable[line] = version
        }
      }
    }
    /// Whether the word at this offset would survive a crash as it is now.
    func survives(_ offset: Int) -> Bool {
      lock.withLock {
        let line = offset / 64
        guard let bytes = durable[line]?.bytes else { return false }
        return bytes[offset % 64..<offset % 64 + 8].elementsEqual(
          content(line)[offset % 64..<offset % 64 + 8])
      }
    }
  }

  private func makeRegion(size: Int = 1 << 20) throws -> (PersistentRegion, ExactMedium) {
    let medium = ExactMedium()
    return (
      try PersistentRegion.inMemory(image: nil, size: size, maximumSize: size, medium: medium), medium
    )
  }
  private let place = Offset(65536)

  /// A thread that does what it is given, one piece after the other, while the test waits.
  private final class Worker: @unchecked Sendable {
    private let work = DispatchSemaphore(value: 0)
    private let done = DispatchSemaphore(value: 0)
    private var body: (() throws -> Void)?
    private var failure: (any Error)?

    init() {
      Thread { [self] in
        while true {
          work.wait()
          if let body {
            do { try body() } catch { failure = error }
          }
          let isOver = body == nil
          done.signal()
          if isOver { return }
        }
      }.start()
    }
    func run(_ body: @escaping () throws -> Void) throws {
      self.body = body
      work.signal()
      done.wait()
      if let failure { throw failure }
    }
    func end() {
      body = nil
      work.signal()
      done.wait()
    }
  }

  func testAGroupIsNotPersistedBeforeTheFenceIsOver() throws {
    let (region, medium) = try makeRegion()
    let group = region.makePersistGroup()
    var asked = 0
    medium.duringFence = {
      asked += 1
      XCTAssertFalse(group.isPersisted, "fence \(asked)")
    }
    for fence in [region.fence, region.order, region.settle, { try region.settle(counting: StoreTally()) }] {
      try region.store(UInt64(asked) + 1, at: place, in: group)
      try fence()
      XCTAssertTrue(group.isPersisted)
    }
    XCTAssertEqual(asked, 4)
  }

  func testAGroupIsPersistedByTheNextFenceOfItsThread() throws {
    let (region, medium) = try makeRegion()
    let a = region.makePersistGroup()
    let b = region.makePersistGroup()
    XCTAssertTrue(a.isPersisted, "nothing was changed")
    try region.store(1, at: place, in: a)
    try region.store(2, at: place + 8, in: a)
    try region.store(3, at: place + 64, in: b)
    XCTAssertFalse(a.isPersisted)
    XCTAssertFalse(b.isPersisted)
    XCTAssertEqual(a.outstandingLines, 1)
    XCTAssertFalse(medium.survives(65536))
    let fences = region.counters.fences
    try region.fence()
    XCTAssertTrue(a.isPersisted)
    XCTAssertTrue(b.isPersisted)
    XCTAssertTrue(medium.survives(65536) && medium.survives(65536 + 64))
    // Nothing left to wait for.
    try a.wait()
    XCTAssertEqual(region.counters.fences, fences + 1)
    // And again, by an order.
    try region.fill(place, count: 200, with: 7, in: a)
    XCTAssertEqual(a.outstandingLines, 4)
    XCTAssertFalse(a.isPersisted)
    try region.order()
    XCTAssertTrue(a.isPersisted)
    try region.close()
  }

  func testWaitingCostsOneFenceAndSettlesAllOfTheThread() throws {
    let (region, _) = try makeRegion()
    let groups = (0..<10).map { _ in region.makePersistGroup() }
    for (i, group) in groups.enumerated() { try region.store(1, at: place + i * 64, in: group) }
    let before = region.counters
    try groups[3].wait()
    XCTAssertEqual(region.counters.fences - before.fences, 1)
    XCTAssertEqual(region.counters.lines, before.lines, "they are on their way already")
    XCTAssertTrue(groups.allSatisfy(\.isPersisted))
    try region.close()
  }

  func testWaiterOnAnotherThreadWritesBackItself() throws {
    let (region, medium) = try makeRegion()
    let worker = Worker()
    let group = region.makePersistGroup()
    let place = place
    try worker.run { try region.store(5, at: place, in: group) }
    XCTAssertFalse(group.isPersisted)
    try region.fence()
    XCTAssertFalse(group.isPersisted, "a fence settles its own thread's write-backs only")
    XCTAssertFalse(medium.survives(65536))
    try group.wait()
    XCTAssertTrue(group.isPersisted)
    XCTAssertTrue(medium.survives(65536))
    worker.end()
    try region.close()
  }

  func testTheLaterOfTwoGroupsIsNotPersistedFirst() throws {
    let (region, medium) = try makeRegion()
    let worker = Worker()
    let place = place
    let earlier = region.makePersistGroup()
    let later = region.makePersistGroup()
    try worker.run {
      try region.store(1, at: place, in: earlier)
      try region.store(1, at: place + 640, in: earlier)
    }
    try region.store(2, at: place + 8, in: later)  // the same line
    try region.fence()
    XCTAssertTrue(medium.survives(65544))
    XCTAssertFalse(earlier.isPersisted)
    XCTAssertFalse(later.isPersisted, "it shares a line with one that is not")
    try worker.run { try region.fence() }
    XCTAssertTrue(later.isPersisted)
    XCTAssertTrue(earlier.isPersisted)

    // Waiting for the later one settles the earlier one, all of it.
    try worker.run {
      try region.store(3, at: place, in: earlier)
      try region.store(3, at: place + 640, in: earlier)
    }
    try region.store(4, at: place + 8, in: later)
    try later.wait()
    XCTAssertTrue(earlier.isPersisted)
    XCTAssertTrue(medium.survives(65536 + 640))

    // In turn: both or none.
    try region.store(5, at: place, in: earlier)
    try worker.run { try region.store(6, at: place + 8, in: later) }
    try region.store(7, at: place + 16, in: earlier)
    try region.fence()
    XCTAssertFalse(earlier.isPersisted)
    XCTAssertFalse(later.isPersisted)
    try earlier.wait()
    XCTAssertTrue(earlier.isPersisted && later.isPersisted)
    worker.end()
    try region.close()
  }

  func testGroupsBeyondTheLimitShareACounter() throws {
    let (region, _) = try makeRegion()
    var own = (0..<4096).map { _ in region.makePersistGroup() }
    let a = region.makePersistGroup()
    let b = region.makePersistGroup()
    let worker = Worker()
    let place = place
    try worker.run { try region.store(1, at: place, in: a) }
    XCTAssertFalse(a.isPersisted)
    XCTAssertFalse(b.isPersisted, "it shares the counter")
    XCTAssertTrue(own.allSatisfy(\.isPersisted))
    try b.wait()
    XCTAssertTrue(a.isPersisted)
    // A group that goes makes room for one with a counter of its own.
    own.removeLast()
    let c = region.makePersistGroup()
    try worker.run { try region.store(1, at: place, in: a) }
    XCTAssertTrue(c.isPersisted)
    XCTAssertFalse(b.isPersisted)
    worker.end()
    try region.close()
  }

  func testLongGroupsAndChainsAreSettledOnTheWay() throws {
    let (region, medium) = try makeRegion()
    let group = region.makePersistGroup()
    let fences = region.counters.fences
    // Every second line, so that no ranges merge; over and over.
    for i in 0..<20_000 { try region.store(UInt64(i), at: place + i % 7000 * 128, in: group) }
    XCTAssertEqual(region.counters.fences, fences + 1)
    XCTAssertLessThan(group.outstandingLines, 16_385)
    try group.wait()
    XCTAssertTrue(medium.survives(65536))
    // Groups that nobody asks about, each in conflict with the one before.
    for i in 0..<200 { try region.store(UInt64(i), at: place, in: region.makePersistGroup()) }
    XCTAssertGreaterThan(region.counters.fences, fences + 3)
    try region.close()
  }

  /// More changes of trees, none of them fenced, than a thread's record holds: a waiter still finds all of them.
  func testLongSpansAreSettledOnTheWay() throws {
    let (region, medium) = try makeRegion(size: 4 << 20)
    let worker = Worker()
    let group = region.makePersistGroup()
    let place = place
    let count = 40_000
    let fences = region.counters.fences
    try worker.run {
      XCTAssertTrue(region.beginGroupSpan(group))
      defer { region.endGroupSpan() }
      for i in 0..<count {
        let leaf = place + i * 64
        region.store(UInt64(i) + 1, at: leaf)
        _ = try region.commitUnderGroup(leaf: leaf, lines: 1)
      }
    }
    XCTAssertEqual(region.counters.fences - fences, 2)
    XCTAssertFalse(group.isPersisted)
    try group.wait()
    XCTAssertTrue(group.isPersisted)
    let lost = (0..<count).filter { !medium.survives(place.bytes + $0 * 64) }
    XCTAssertEqual(lost.count, 0, "first \(lost.first ?? -1)")
    worker.end()
    try region.close()
  }

  /// A line that is changed again and again counts once, whichever way the changes take.
  func testOutstandingLines() throws {
    let (region, _) = try makeRegion()
    let group = region.makePersistGroup()
    for i in 0..<32 { try region.store(1, at: place + i * 8, in: group) }
    XCTAssertEqual(group.outstandingLines, 4)
    try region.fill(place + 4096, count: 640, in: group)
    try region.store(1, at: place + 4096, in: group)
    XCTAssertEqual(group.outstandingLines, 15, "a second stretch of work on a line")
    try group.wait()
    XCTAssertEqual(group.outstandingLines, 0)
    // More lines than an entry has room for.
    try region.fill(Offset(65536), count: 900 << 10, in: group)
    XCTAssertEqual(group.outstandingLines, 900 << 4)
    try region.fence()
    XCTAssertEqual(group.outstandingLines, 0)
    try region.close()
  }

  /// Lines beyond 16 TiB have no room in a record: there every change is durable when it returns.
  func testInAnEnormousRegionEachChangeIsSettled() throws {
    var options = RegionOptions(media: .emulated)
    options.reservation = 32 << 40
    let region = try PersistentRegion.create(at: memoryPath(), size: 1 << 20, options: options)
    guard region.maximumSize > 16 << 40 else { throw XCTSkip("no room for a mapping of 32 TiB") }
    let group = region.makePersistGroup()
    let fences = region.counters.fences
    try region.store(1, at: place, in: group)
    XCTAssertTrue(group.isPersisted)
    XCTAssertEqual(region.counters.fences - fences, 1)
    XCTAssertFalse(region.beginGroupSpan(group))
    try region.close()
  }

  func testArguments() throws {
    let (region, _) = try makeRegion()
    let (other, _) = try makeRegion()
    let group = other.makePersistGroup()
    assertThrows(.invalidArgument, path: region.path) { try region.store(1, at: place, in: group) }
    assertThrows(.invalidArgument, path: region.path) { try region.flush(place, count: 8, in: group) }
    XCTAssertEqual(region.load(place), 0)
    let own = region.makePersistGroup()
    try region.write(UnsafeRawBufferPointer(start: nil, count: 0), at: place, in: own)
    XCTAssertTrue(own.isPersisted)
    try region.store(1, at: place, in: own)
    try region.close()
    assertThrows(.closed, path: region.path) { try own.wait() }
  }

  /// Random changes by three threads under six groups: a group that is called persisted is so, to the word.
  func testAnswersAgainstTheMedium() throws {
    for seed in 0..<20 as Range<UInt64> {
      var random = SeededGenerator(seed: seed)
      let (region, medium) = try makeRegion()
      let workers = (0..<3).map { _ in Worker() }
      let groups = (0..<6).map { _ in region.makePersistGroup() }
      /// What each group has changed since it was last known to be persisted, in order of the changes.
      var changed: [Int: [Int]] = [:]
      var trues = 0
      for step in 1...400 {
        let worker = workers[Int(random.next() % 3)]
        let g = Int(random.next() % 6)
        let offset = 65536 + Int(random.next() % 40) * 8
        switch random.next() % 10 {
        case 0...4:
          try worker.run { try region.store(UInt64(step), at: Offset(offset), in: groups[g]) }
          changed[g, default: []].append(offset)
        case 5: try worker.run { try region.fence() }
        case 6 where random.next() % 4 == 0:
          try worker.run { try groups[g].wait() }
          XCTAssertTrue(groups[g].isPersisted, "seed \(seed), step \(step): after wait()")
        default:
          // Words that others have changed since may be newer than what survives: look at those alone that are the
          // last ones there.
          for g in 0..<6 where groups[g].isPersisted {
            trues += 1
            for offset in changed[g] ?? []
            where changed.allSatisfy({ $0.key == g || !$0.value.contains(offset) }) {
              XCTAssertTrue(
                medium.survives(offset), "seed \(seed), step \(step), group \(g), offset \(offset)")
            }
            changed[g] = []
          }
        }
      }
      XCTAssertGreaterThan(trues, 20)
      for worker in workers { worker.end() }
      try region.close()
    }
  }

  func testEveryMedium() throws {
    for (path, options) in everyMedium {
      let region = try PersistentRegion.create(at: path, size: 1 << 20, options: options)
      let group = region.makePersistGroup()
      let place = region.payloadStart
      try region.store(11, at: place, in: group)
      XCTAssertFalse(group.isPersisted, "\(region.media)")
      try group.wait()
      XCTAssertTrue(group.isPersisted, "\(region.media)")
      onThreads(3) { thread in
        for i in 0..<50 {
          try? region.store(UInt64(i), at: place + 64 * (thread + 1), in: group)
          if i % 10 == 9 { try? group.wait() }
        }
      }
      try group.wait()
      XCTAssertTrue(group.isPersisted, "\(region.media)")
      region.abandon()
      let again = try PersistentRegion.open(at: path, options: options)
      XCTAssertEqual(again.load(place), 11)
      XCTAssertEqual(again.load(place + 128), 49)
      try again.close()
    }
  }

  // MARK: Tasks

  func testTasksWaitTogether() async throws {
    let region = try PersistentRegion.create(
      at: path(), size: 1 << 20, options: RegionOptions(media: .inPlaceFile))
    let fences = region.counters.fences
    try await withThrowingTaskGroup(of: Void.self) { tasks in
      for i in 0..<200 {
        tasks.addTask {
          let group = region.makePersistGroup()
          try region.store(UInt64(i), at: Offset(65536 + 4096 * (i % 100)), in: group)
          try await group.persisted()
          XCTAssertTrue(group.isPersisted)
        }
      }
      try await tasks.waitForAll()
    }
    XCTAssertLessThanOrEqual(region.counters.fences - fences, 200)
    try region.close()
  }

  /// A group that is persisted stays so while the thread that changed it goes on under another one.
  func testWhatComesUnderAnotherGroupIsNotCounted() throws {
    let region = try PersistentRegion.create(
      at: memoryPath(), size: 4 << 20, options: RegionOptions(media: .emulated))
    let place = place
    let (first, other) = (region.makePersistGroup(), region.makePersistGroup())
    let rounds = 3000
    let persisted = Atomic<Int>(0)
    let asked = Atomic<Int>(0)
    let wrong = Atomic<Int>(0)
    onThreads(2) { thread in
      for round in 1...rounds {
        if thread == 0 {
          try? region.store(UInt64(round), at: place, in: first)
          try? first.wait()
          persisted.store(round, ordering: .releasing)
          repeat {
            try? region.store(UInt64(round), at: place + 4096, in: other)
            try? other.wait()
          } while asked.load(ordering: .acquiring) < round
        } else {
          while persisted.load(ordering: .acquiring) < round { sched_yield() }
          for _ in 0..<20 where !first.isPersisted { wrong.add(1, ordering: .relaxed) }
          asked.store(round, ordering: .releasing)
        }
      }
    }
    XCTAssertEqual(wrong.load(ordering: .relaxed), 0)
    try region.close()
  }

  /// On memory a task fences itself, and hands over what would take long.
  func testTasksOnMemory() async throws {
    let region = try PersistentRegion.create(
      at: memoryPath(), size: 4 << 20, options: RegionOptions(media: .emulated))
    let place = place
    for lines in [1, 256, 20_000] {
      let group = region.makePersistGroup()
      onThreads(1) { _ in
        for i in 0..<lines { try? region.store(1, at: place + i * 64, in: group) }
      }
      try region.store(2, at: place + (2 << 20), in: group)
      XCTAssertFalse(group.isPersisted)
      try await group.persisted()
      XCTAssertTrue(group.isPersisted)
      XCTAssertEqual(group.outstandingLines, 0)
    }
    try await withThrowingTaskGroup(of: Void.self) { tasks in
      for t in 0..<16 {
        tasks.addTask {
          for i in 0..<100 {
            let group = region.makePersistGroup()
            try region.store(UInt64(i), at: place + t * 64, in: group)
            try await group.persisted()
            XCTAssertTrue(group.isPersisted)
          }
        }
      }
      try await tasks.waitForAll()
    }
    region.poison(NVMError(code: .ioFailure, message: "A planned failure.", path: region.path))
    let group = region.makePersistGroup()
    try? region.store(3, at: place, in: group)
    do {
      try await group.persisted()
      XCTFail("the failure was not told")
    } catch let error as NVMError {
      XCTAssertEqual(error.code, .poisoned)
    }
    try? region.close()
  }

  func testCancellation() async throws {
    let (region, medium) = try makeRegion()
    let group = region.makePersistGroup()
    let place = place
    let task = Task {
      while !Task.isCancelled { await Task.yield() }
      try region.store(1, at: place, in: group)
      try await group.persisted()
    }
    task.cancel()
    do {
      try await task.value
      XCTFail("a cancelled task was not told")
    } catch {
      XCTAssertTrue(error is CancellationError, "\(error)")
    }
    XCTAssertEqual(region.load(place), 1, "the change stands")
    try group.wait()
    XCTAssertTrue(medium.survives(65536))
    try region.close()
  }

  func testFailureReachesEveryTask() async throws {
    let region = try PersistentRegion.create(
      at: path(), size: 1 << 20, options: RegionOptions(media: .inPlaceFile))
    let groups = (0..<3).map { _ in region.makePersistGroup() }
    for (i, group) in groups.enumerated() { try region.store(1, at: Offset(65536 * (i + 1)), in: group) }
    region.poison(NVMError(code: .ioFailure, message: "A planned failure.", path: region.path))
    for group in groups {
      do {
        try await group.persisted()
        XCTFail("the failure was not told")
      } catch let error as NVMError {
        XCTAssertEqual(error.code, .poisoned)
      }
      XCTAssertFalse(group.isPersisted)
    }
    try? region.close()
  }
}
