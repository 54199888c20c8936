import NVMBTree
import NVMTesting

/// Batches of updates: a crash in the middle of one leaves any part of its entries.
enum TreeBatchScenarios {
  static func all() -> [AnyScenario] {
    [
      AnyScenario(words("tree-batch", leafCapacity: 4)),
      AnyScenario(words("tree-batch-wide", leafCapacity: 27)),
      AnyScenario(records),
    ]
  }

  typealias Subject = TreeSubject<UInt64, UInt64>
  typealias Operation = CrashOperation<Subject, BatchState>
  typealias Texts = TreeSubject<UInt64, String>

  /// Values that stand in records: no entry may name one that is not there yet.
  private static var records: CrashScenario<Texts, BatchState> {
    @Sendable func text(_ number: UInt64) -> String { "\(number), too long for a word" }
    func put(_ entries: [(UInt64, UInt64)]) -> [CrashOperation<Texts, BatchState>] {
      [
        intend(entries),
        CrashOperation("batch") {
          try $0.tree.updateValues(entries.map { ($0, text($1)) })
        } model: {
          $0.carryOut(entries)
        },
      ]
    }
    let operations =
      put([(10, 1), (20, 1)]) + put([(20, 2), (10, 2), (30, 2)]) + put([(40, 3), (50, 3), (20, 3)])
    var scenario = CrashScenario<Texts, BatchState>(
      "tree-batch-records", create: { try Texts(creating: $0, 4) }, open: { try Texts(opening: $0, 4) },
      observe: {
        let content = try $0.content().mapValues { text in UInt64(text.prefix { $0.isNumber }) ?? .max }
        return BatchState(content: content, isObserved: true)
      }, threads: [operations])
    scenario.regionSize = 96 << 10
    scenario.invariant = { try $0.check() }
    scenario.close = { $0.close() }
    scenario.continuation = put([(20, 5), (60, 5)])
    return scenario
  }

  /// Several leaves under one fence, several entries in one leaf, one key twice, leaves that split on the way, more
  /// than one group.
  private static func words(_ name: String, leafCapacity: Int) -> CrashScenario<Subject, BatchState> {
    let operations: [Operation] =
      batch([(10, 1), (20, 1), (30, 1)]) + batch([(40, 1), (5, 1), (15, 1), (25, 1)])
      + batch([(10, 2), (20, 2), (30, 2), (40, 2), (12, 2)]) + [remove(20)]
      + batch([(20, 3), (10, 3), (20, 4), (10, 4)])
      + batch((1...20).map { ($0 * 2 + 1, $0) }) + [remove(15), remove(25)]
      + batch([(15, 5), (41, 5), (3, 5)])
    var scenario = CrashScenario<Subject, BatchState>(
      name, create: { try Subject(creating: $0, leafCapacity) },
      open: { try Subject(opening: $0, leafCapacity) },
      observe: { BatchState(content: try $0.content(), isObserved: true) }, threads: [operations])
    scenario.regionSize = 96 << 10
    scenario.invariant = { try $0.check() }
    scenario.close = { $0.close() }
    scenario.continuation = batch([(1000, 1), (3, 2), (1001, 1)]) + [remove(1000)]
    return scenario
  }

  private static func batch(_ entries: [(UInt64, UInt64)]) -> [Operation] {
    [
      intend(entries),
      Operation("batch") {
        try $0.tree.updateValues(entries)
      } model: {
        $0.carryOut(entries)
      },
    ]
  }

  private static func intend<Value>(
    _ entries: [(UInt64, UInt64)]
  ) -> CrashOperation<TreeSubject<UInt64, Value>, BatchState> {
    CrashOperation("intend a batch") { _ in
    } model: {
      $0.isObserved = false
      $0.perhaps = entries.map { BatchState.Entry(key: $0.0, value: $0.1) }
    }
  }

  private static func remove(_ key: UInt64) -> Operation {
    Operation("remove") {
      try $0.tree.removeValue(forKey: key)
    } model: {
      $0.isObserved = false
      return $0.content.removeValue(forKey: key)
    }
  }
}

/// What a tree holds, and which entries it may hold beside because a batch of them is under way. A model's state
/// equals an observed one when some part of those entries makes the difference.
struct BatchState: Equatable, Sendable {
  struct Entry: Equatable, Sendable {
    var key: UInt64
    var value: UInt64
  }
  var content: [UInt64: UInt64]
  var perhaps: [Entry] = []
  var isObserved: Bool

  /// All of the batch is there; returns how many keys were not there before.
  mutating func carryOut(_ entries: [(UInt64, UInt64)]) -> Int {
    isObserved = false
    perhaps = []
    var inserted = 0
    for (key, value) in entries where content.updateValue(value, forKey: key) == nil { inserted += 1 }
    return inserted
  }

  static func == (a: BatchState, b: BatchState) -> Bool {
    if a.isObserved == b.isObserved { return a.content == b.content && a.perhaps == b.perhaps }
    let (model, seen) = a.isObserved ? (b, a) : (a, b)
    // Every key: as it was, or as one of the batch's entries has it.
    return Set(model.content.keys).union(seen.content.keys).allSatisfy { key in
      let value = seen.content[key]
      return value == model.content[key] || model.perhaps.contains { $0.key == key && $0.value == value }
    }
  }
}
