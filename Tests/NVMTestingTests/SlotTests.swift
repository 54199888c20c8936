import NVMRegion
import NVMTesting
import Synchronization
import XCTest

/// Mistakes with space: leaks, double allocation, reuse of slots; and readers of what is not durable yet.
final class SlotTests: XCTestCase {
  enum Flaw: Sendable {
    case none, leak, doubleAllocation, resurrected, readerBeforeFence
  }

  /// A set of keys with values in eight slots of two lines: key line, value line. A word of bits says which
  /// slots live; a second word, next to nothing else, which slots are taken.
  ///
  ///     payload  +0 live bits   +64 taken bits   +128 slots
  final class Slots: @unchecked Sendable {
    let region: PersistentRegion
    let flaw: Flaw
    let published = Atomic<UInt64>(0)
    let seen = Atomic<Bool>(false)
    let lock = Mutex<Void>(())

    init(_ region: PersistentRegion, _ flaw: Flaw) { (self.region, self.flaw) = (region, flaw) }

    var live: Offset { region.payloadStart }
    var taken: Offset { region.payloadStart + 64 }
    func slot(_ i: Int) -> Offset { region.payloadStart + 128 + i * 128 }
    private var keepsTaken: Bool { flaw == .leak || flaw == .doubleAllocation }

    static func create(_ region: PersistentRegion, _ flaw: Flaw) throws -> Slots { Slots(region, flaw) }
    static func open(_ region: PersistentRegion, _ flaw: Flaw) throws -> Slots {
      return Slots(region, flaw)
    }

    func contents() throws -> [UInt64: UInt64] {
      var result: [UInt64: UInt64] = [:]
      let bits = region.load(live)
      for i in 0..<8 where bits >> UInt64(i) & 1 != 0 {
        // A tombstone of the flawed removal.
        if flaw == .resurrected, region.load(slot(i) + 64) == 0 { continue }
        result[region.load(slot(i))] = region.load(slot(i) + 64)
      }
      return result
    }

    func verify() throws {
      guard keepsTaken else { return }
      let (alive, used) = (region.load(live), region.load(taken))
      if used & ~alive != 0 { throw RecordTests.Failure(text: "slots \(used & ~alive) leaked") }
      if alive & ~used != 0 { throw RecordTests.Failure(text: "slots \(alive & ~used) are used and free") }
    }

    func insert(_ key: UInt64, _ value: UInt64) throws {
      let bits = region.load(live)
      let i: Int
      if flaw == .resurrected,
        let dead = (0..<8).first(where: { bits >> UInt64($0) & 1 != 0 && region.load(slot($0) + 64) == 0 })
      {
        i = dead
      } else {
        i = (~bits).trailingZeroBitCount
      }
      guard i < 8 else { throw RecordTests.Failure(text: "full") }
      if flaw == .leak { try region.storeDurable(region.load(taken) | 1 << UInt64(i), at: taken) }
      region.store(value, at: slot(i) + 64)
      region.store(key, at: slot(i))
      region.flush(slot(i), count: 128)
      try region.order()
      region.store(bits | 1 << UInt64(i), at: live)
      try region.persist(live, count: 8)
      if flaw == .doubleAllocation { try region.storeDurable(region.load(taken) | 1 << UInt64(i), at: taken) }
    }

    func remove(_ key: UInt64) throws {
      let bits = region.load(live)
      for i in 0..<8 where bits >> UInt64(i) & 1 != 0 && region.load(slot(i)) == key {
        if flaw == .resurrected {
          try region.storeDurable(0, at: slot(i) + 64)
          continue
        }
        region.store(bits & ~(1 << UInt64(i)), at: live)
        try region.persist(live, count: 8)
        if keepsTaken { try region.storeDurable(region.load(taken) & ~(1 << UInt64(i)), at: taken) }
      }
    }

    /// Publishes a word; the flawed version lets a reader see it before the fence.
    func publish(_ value: UInt64) throws {
      func change() throws {
        region.store(value, at: live + 8)
        published.store(value, ordering: .releasing)
        if flaw == .readerBeforeFence { while !seen.load(ordering: .acquiring) {} }
        try region.persist(live + 8, count: 8)
      }
      if flaw == .readerBeforeFence { try change() } else { try lock.withLock { _ in try change() } }
    }
    func readPublished() -> UInt64 {
      while published.load(ordering: .acquiring) == 0 {}
      if flaw == .readerBeforeFence {
        return region.load(live + 8)
      }
      return lock.withLock { _ in region.load(live + 8) }
    }
  }

  private typealias Operation = CrashOperation<Slots, [UInt64: UInt64]>
  private func insert(_ key: UInt64, _ value: UInt64) -> Operation {
    Operation("insert") {
      try $0.insert(key, value)
    } model: {
      $0[key] = value
    }
  }
  private func remove(_ key: UInt64) -> Operation {
    Operation("remove") {
      try $0.remove(key)
    } model: {
      $0[key] = nil
    }
  }

  private func scenario(_ flaw: Flaw) -> CrashScenario<Slots, [UInt64: UInt64]> {
    var scenario = CrashScenario<Slots, [UInt64: UInt64]>(
      "slots-\(flaw)", create: { try Slots.create($0, flaw) }, open: { try Slots.open($0, flaw) },
      observe: { try $0.contents() },
      operations: [
        insert(1, 10), insert(2, 20), remove(1), insert(3, 30), remove(2), remove(3), insert(4, 40),
      ])
    scenario.regionSize = 12 << 10
    scenario.invariant = { try $0.verify() }
    scenario.continuation = [remove(9), insert(9, 90), remove(9)]
    return scenario
  }

  private func explore(_ flaw: Flaw) -> CrashReport {
    var options = CrashOptions()
    options.maximumViolations = 1
    if flaw == .none { options.maximumImages = 1500 }
    return CrashExplorer(options).explore(scenario(flaw))
  }

  func testRightSlotsPass() throws { try explore(.none).check() }
  func testLeak() throws {
    let found = try XCTUnwrap(explore(.leak).violations.first)
    XCTAssertEqual(found.kind, .unsound)
    XCTAssertTrue(found.message.contains("leaked"), found.description)
  }
  func testDoubleAllocation() throws {
    let found = try XCTUnwrap(explore(.doubleAllocation).violations.first)
    XCTAssertEqual(found.kind, .unsound)
    XCTAssertTrue(found.message.contains("used and free"), found.description)
  }
  func testOldEntryResurrectedBySlotReuse() {
    XCTAssertEqual(explore(.resurrected).violations.first?.kind, .wrongState)
  }

  /// One thread publishes, the other reads: what was read must survive.
  private func exploreReader(_ flaw: Flaw) -> CrashReport {
    typealias Operation = CrashOperation<Slots, UInt64>
    let publish = Operation("publish") {
      try $0.publish(5)
    } model: {
      $0 = 5
    }
    let read = Operation("read") { slots -> UInt64 in
      slots.readPublished()
    } model: {
      $0
    }
    let done = Operation("done") {
      $0.seen.store(true, ordering: .releasing)
    } model: { _ in
    }
    var scenario = CrashScenario<Slots, UInt64>(
      "reader-\(flaw)", create: { try Slots.create($0, flaw) }, open: { try Slots.open($0, flaw) },
      observe: { $0.region.load($0.live + 8) }, threads: [[publish], [read, done]])
    scenario.regionSize = 12 << 10
    return CrashExplorer().explore(scenario)
  }

  func testReaderUnderLockPasses() throws { try exploreReader(.none).check() }
  func testReaderActsOnWhatIsNotDurable() throws {
    let found = try XCTUnwrap(exploreReader(.readerBeforeFence).violations.first)
    XCTAssertEqual(found.kind, .wrongState)
    XCTAssertTrue(found.losses.contains { $0.operation.contains("publish") }, found.description)
  }
}
