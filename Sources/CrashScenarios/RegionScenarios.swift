package import NVMRegion
package import NVMTesting

/// The region itself: formatting, growth, superblock updates, close and reopen, primitives.
package enum RegionScenarios {
  package static func all(seed: UInt64) -> [AnyScenario] {
    [
      AnyScenario(create(), isGated: true), AnyScenario(grow(), isGated: true), AnyScenario(reopen()),
      AnyScenario(words(seed: seed), isSeeded: true, isGated: true),
      AnyScenario(wordsOfTwoThreads(seed: seed)), AnyScenario(groups(seed: seed)),
      AnyScenario(groups(seed: seed, threads: 3)),
      AnyScenario(foreignLines()),
      AnyScenario(laps(seed: seed), isSeeded: true),
    ]
  }

  /// A region whose payload is a few words, each made durable by itself.
  package final class Words: Sendable {
    package let region: PersistentRegion
    static let magic: UInt64 = 0x5741_5244_5344_4157
    package static let count = 24

    /// What all threads change under one group.
    private let group: PersistGroup

    private init(_ region: PersistentRegion) {
      self.region = region
      group = region.makePersistGroup()
    }

    /// Word `i`: three lines of eight, after the line of the magic word.
    static func place(_ region: PersistentRegion, _ i: Int) -> Offset { region.payloadStart + 64 + i * 8 }

    package static func create(_ region: PersistentRegion) throws -> Words {
      region.store(magic, at: region.payloadStart)
      try region.persist(region.payloadStart, count: 8)
      return Words(region)
    }

    package static func open(_ region: PersistentRegion) throws -> Words {
      guard region.load(region.payloadStart) == magic else {
        throw NVMError(code: .corrupt, message: "The magic word is missing.", offset: 4096)
      }
      return Words(region)
    }

    package struct State: Equatable, Sendable {
      package var size: Int
      package var words: [UInt64]
      /// The last word of the region.
      package var tail: UInt64
    }

    package func observe() -> State {
      State(
        size: region.size, words: (0..<Self.count).map { region.load(Self.place(region, $0)) },
        tail: region.load(region.end - 8))
    }

    func set(_ i: Int, _ value: UInt64) throws {
      region.store(value, at: Self.place(region, i))
      try region.persist(Self.place(region, i), count: 8)
    }
    func setDirectly(_ i: Int, _ value: UInt64) throws {
      try region.storeDurable(value, at: Self.place(region, i))
    }
    /// Under a group: waited for, or fenced and then asked for.
    func set(_ i: Int, _ value: UInt64, waiting: Bool) throws {
      try region.store(value, at: Self.place(region, i), in: group)
      if !waiting {
        try region.fence()
        if group.isPersisted { return }
      }
      try group.wait()
    }
    /// Whether word `i` has the value, which then survives any crash, whoever stored it.
    func isSettled(_ i: Int, _ value: UInt64) throws -> Bool {
      guard region.load(Self.place(region, i)) == value else { return false }
      try group.wait()
      return true
    }
    func setTail(_ value: UInt64) throws { try region.storeDurable(value, at: region.end - 8) }
  }

  typealias Scenario = CrashScenario<Words, Words.State>

  private static func scenario(_ name: String, _ operations: [Scenario.Operation]) -> Scenario {
    var scenario = Scenario(
      name, create: Words.create, open: Words.open, observe: { $0.observe() }, operations: operations)
    scenario.regionSize = 16 << 10
    scenario.maximumSize = 32 << 10
    scenario.continuation = [set(3, 333), grow(by: 4096), tail(444)]
    return scenario
  }

  private static func set(_ i: Int, _ value: UInt64) -> Scenario.Operation {
    Scenario.Operation("set") {
      try $0.set(i, value)
    } model: {
      $0.words[i] = value
    }
  }
  private static func setDirectly(_ i: Int, _ value: UInt64) -> Scenario.Operation {
    Scenario.Operation("set directly") {
      try $0.setDirectly(i, value)
    } model: {
      $0.words[i] = value
    }
  }
  private static func tail(_ value: UInt64) -> Scenario.Operation {
    Scenario.Operation("set tail") {
      try $0.setTail(value)
    } model: {
      $0.tail = value
    }
  }
  private static func grow(by bytes: Int) -> Scenario.Operation {
    Scenario.Operation("grow") { words in
      try words.region.grow(toAtLeast: words.region.size + bytes)
    } model: { state in
      state.size += (bytes + 4095) & ~4095
      state.tail = 0
    }
  }

  /// Formatting, every torn state of the two superblocks included.
  package static func create() -> CrashScenario<Words, Words.State> {
    var scenario = scenario("region-create", [set(0, 1)])
    scenario.exploresCreation = true
    scenario.exploreSuperblock()
    return scenario
  }

  /// Growth while words are written, the last ones in the new space.
  package static func grow() -> CrashScenario<Words, Words.State> {
    var scenario = scenario(
      "region-grow", [set(0, 1), grow(by: 4096), tail(7), grow(by: 100), tail(9), set(1, 2)])
    scenario.exploreSuperblock()
    scenario.maximumSize = 64 << 10
    return scenario
  }

  /// Clean and unclean reopening: each opening and close updates both superblocks.
  package static func reopen() -> CrashScenario<Words, Words.State> {
    var scenario = scenario("region-reopen", [set(0, 1), .reopen, set(0, 2), .restart, set(9, 3), .reopen])
    scenario.exploreSuperblock()
    return scenario
  }

  /// The ways to make one word durable.
  package static func words(seed: UInt64) -> CrashScenario<Words, Words.State> {
    var generator = SeededGenerator(seed: seed)
    return scenario(
      "region-words",
      (0..<30).map { _ in
        let i = generator.below(Words.count)
        let value = generator.next()
        return generator.below(2) == 0 ? set(i, value) : setDirectly(i, value)
      })
  }

  /// So many bytes that a small journal is gone round several times, with its checkpoints.
  package static func laps(seed: UInt64) -> CrashScenario<Words, Words.State> {
    var generator = SeededGenerator(seed: seed)
    return scenario(
      "region-laps",
      (0..<40).map { n in
        let i = generator.below(Words.count)
        let value = generator.next()
        return Scenario.Operation("fill and set") {
          let room = $0.region.payloadStart + 4096
          $0.region.fill(room, count: 3000, with: UInt8(n))
          $0.region.flush(room, count: 3000)
          try $0.set(i, value)
        } model: {
          $0.words[i] = value
        }
      } + [.restart, set(5, 55), .reopen, set(6, 66)])
  }

  /// Two threads, each with words of its own in lines that they share.
  package static func wordsOfTwoThreads(seed: UInt64) -> CrashScenario<Words, Words.State> {
    var generator = SeededGenerator(seed: seed)
    var scenario = scenario("region-words-2-threads", [])
    scenario.threads = (0..<2).map { t in
      (0..<12).map { _ in
        let i = generator.below(Words.count / 2) * 2 + t
        let value = generator.next()
        return generator.below(2) == 0 ? set(i, value) : setDirectly(i, value)
      }
    }
    return scenario
  }

  /// The same under one persist group: who waits settles what the other thread has outstanding.
  package static func groups(seed: UInt64, threads: Int = 2) -> CrashScenario<Words, Words.State> {
    var generator = SeededGenerator(seed: seed)
    var scenario = scenario("region-groups-\(threads)-threads", [])
    scenario.threads = (0..<threads).map { t in
      (0..<24 / threads).map { _ in
        let i = generator.below(Words.count / threads) * threads + t
        let value = generator.next()
        let waiting = generator.below(2) == 0
        return Scenario.Operation("set \(i) under a group") {
          try $0.set(i, value, waiting: waiting)
        } model: {
          $0.words[i] = value
        }
      }
    }
    return scenario
  }

  /// One thread has stored and not fenced; the other, which sees it, waits for the group.
  private static func foreignLines() -> Scenario {
    var scenario = scenario("region-groups-interrupted", [])
    let pairs = (0..<6).map { n -> (Scenario.Operation, Scenario.Operation) in
      let (i, value) = (n * 4, UInt64(n + 1))
      return (
        Scenario.Operation("set under a group") {
          try $0.set(i, value, waiting: false)
        } model: {
          $0.words[i] = value
        },
        Scenario.Operation("see it and wait") {
          try $0.isSettled(i, value)
        } model: {
          $0.words[i] == value
        }
      )
    }
    scenario.threads = [pairs.map(\.0), pairs.map(\.1)]
    scenario.interruptions = pairs.map { _ in 0 }
    return scenario
  }
}
