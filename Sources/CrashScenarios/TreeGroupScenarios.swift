import NVMBTree
import NVMRegion
import NVMTesting

/// Changes under persist groups: fences come later than the changes, for many leaves at once.
enum TreeGroupScenarios {
  typealias Subject = TreeSubject<UInt64, UInt64>
  typealias Scenario = CrashScenario<Subject, [UInt64: UInt64]>
  typealias Operation = Scenario.Operation

  static var all: [AnyScenario] {
    [
      AnyScenario(words), AnyScenario(wideLeaf), AnyScenario(readers), AnyScenario(records),
      AnyScenario(interruptedReads), AnyScenario(interruptedWrites), AnyScenario(sharedGroup),
      AnyScenario(threeThreads),
    ]
  }

  // MARK: Groups as operations

  /// Changes of a map, in order; no value: removed.
  typealias Changes<Key, Value> = [(key: Key, value: Value?)]

  /// What a crash may leave of the changes of one group: of those to each key the first so many.
  private static func partial<Key: Hashable, Value>(
    _ before: [Key: Value], _ changes: Changes<Key, Value>
  ) -> [[Key: Value]] {
    var states = [before]
    for key in Set(changes.map(\.key)) {
      states = states.flatMap { state -> [[Key: Value]] in
        var result = [state]
        for change in changes where change.key == key {
          var next = state
          next[key] = change.value
          result.append(next)
        }
        return result
      }
    }
    return states
  }

  private enum Ending {
    /// The group is waited for.
    case waited
    /// Nobody waits: reading what was changed settles it.
    case read
    /// Nobody waits: the same leaves are changed again, durably.
    case overwritten
    /// Nobody waits: the tree gives back what it does not need, records that were replaced above all.
    case trimmed
  }

  private static func group<
    Key: DurableKey & Hashable & Sendable, Value: DurableValue & Equatable & Sendable
  >(
    _ changes: Changes<Key, Value>, _ ending: Ending = .waited
  ) -> CrashOperation<TreeSubject<Key, Value>, [Key: Value]> {
    let keys = Array(Set(changes.map(\.key)))
    return CrashOperation("group of \(changes.count), \(ending)") { subject -> [Value?] in
      let tree = subject.tree
      let group = subject.heap.region.makePersistGroup()
      for change in changes {
        if let value = change.value {
          try tree.updateValue(value, forKey: change.key, in: group)
        } else {
          try tree.removeValue(forKey: change.key, in: group)
        }
      }
      switch ending {
      case .waited: try group.wait()
      case .read: break
      case .trimmed: tree.trim()
      case .overwritten:
        for key in keys {
          if let last = changes.last(where: { $0.key == key })?.value {
            try tree.updateValue(last, forKey: key)
          }
        }
        // What has been removed is not there to be overwritten.
        try group.wait()
      }
      return try keys.map { try tree[$0] }
    } model: { model in
      for change in changes { model[change.key] = change.value }
      return keys.map { model[$0] }
    }
    .inParts { partial($0, changes) }
  }

  private static func puts(_ keys: [UInt64], _ value: UInt64, _ ending: Ending = .waited) -> Operation {
    group(keys.map { ($0, value &+ $0) }, ending)
  }
  private static func removals(_ keys: [UInt64], _ ending: Ending = .waited) -> Operation {
    group(keys.map { ($0, nil as UInt64?) }, ending)
  }

  // MARK: One thread

  /// Splits of leaves and inner nodes, updates in place and into new slots, merges, the same leaf again and again.
  private static var words: Scenario {
    var scenario = TreeScenarios.base(
      "tree-group-words",
      threads: [
        [
          puts([1, 2, 3, 4], 10), puts([5, 6], 10), puts([30, 10, 20], 20), puts([40, 15, 7, 25], 30),
          puts([1, 30, 5, 20], 40), group([(1, 50), (1, 51), (30, 52), (2, nil), (2, 53)]),
          TreeScenarios.put(11, 60), removals([3, 4, 1]), removals([30, 40, 25, 20]), .reopen,
          puts([50, 51, 52, 53, 54], 70), .restart, removals([5, 6, 7, 10, 15]),
          group([(60, 1), (51, nil), (61, 2), (60, nil), (52, 3)]), TreeScenarios.remove(2),
        ]
      ], leafCapacity: 4)
    scenario.continuation = [puts([1000, 3], 2), TreeScenarios.remove(1000)]
    return scenario
  }

  /// Leaves of full size: entries move between lines.
  private static var wideLeaf: Scenario {
    TreeScenarios.base(
      "tree-group-wide-leaf",
      threads: [
        (0..<8).map { i in puts((0..<4).map { (UInt64(i) * 4 + $0) * 7 % 33 }, UInt64(i) * 100) }
          + [puts([0, 7, 14, 21], 900), removals([7, 0, 21])]
      ], leafCapacity: 27)
  }

  /// Groups that nobody waits for: what is read, or changed again, is settled.
  private static var readers: Scenario {
    TreeScenarios.base(
      "tree-group-readers",
      threads: [
        [
          puts([1, 2, 3], 10, .read), puts([4, 5, 6], 20, .read), puts([2, 5], 30, .overwritten),
          puts([7, 8, 9], 40, .overwritten), removals([1, 2, 3], .read), puts([1, 20, 21, 22], 50, .read),
          group([(9, nil), (20, 60), (9, 61)], .read), removals([4, 5, 6, 7], .read),
        ]
      ], leafCapacity: 4)
  }

  /// Long keys and values: a record that was replaced is freed when the change is settled.
  private static var records: CrashScenario<TreeSubject<String, String>, [String: String]> {
    let long = String(repeating: "v", count: 70)
    let (one, two, three) = ("key number one", "key number two", "key number three")
    var scenario = TreeScenarios.base(
      "tree-group-records",
      threads: [
        [
          group([("a", long), (one, "1"), (two, long)]), group([("a", "c"), (one, long), (one, "2")]),
          group([(three, ""), ("b", long), ("key number four", "4")]),
          group([(two, nil), ("a", long)], .read),
          .restart, group([(two, "2"), ("a", nil), (one, nil), ("b", "x")]), .reopen,
          group([(three, long), ("b", nil), (one, "1"), (two, long)], .trimmed),
          group([(three, "3")], .trimmed),
          group([(one, "again"), (two, nil), (two, long)], .overwritten),
        ] as [CrashOperation<TreeSubject<String, String>, [String: String]>]
      ], leafCapacity: 4)
    scenario.continuation = [group([("a further key", "a further value"), (one, nil)])]
    return scenario
  }

  // MARK: Several threads

  /// One change under a group of its own, waited for at the end.
  private static func put(_ key: UInt64, _ value: UInt64) -> Operation {
    Operation("put under a group") { subject in
      let group = subject.heap.region.makePersistGroup()
      defer { withExtendedLifetime(group) {} }
      let old = try subject.tree.updateValue(value, forKey: key, in: group)
      try group.wait()
      return old
    } model: {
      $0.updateValue(value, forKey: key)
    }
  }
  private static func remove(_ key: UInt64) -> Operation {
    Operation("remove under a group") { subject in
      let group = subject.heap.region.makePersistGroup()
      let old = try subject.tree.removeValue(forKey: key, in: group)
      try group.wait()
      return old
    } model: {
      $0.removeValue(forKey: key)
    }
  }
  private static func get(_ key: UInt64) -> Operation {
    Operation("get") {
      try $0.tree[key]
    } model: {
      $0[key]
    }
  }

  /// Three threads at the same few leaves: each settles what the others have left, and reads what it settles.
  private static var threeThreads: Scenario {
    TreeScenarios.base(
      "tree-group-3-threads",
      threads: [
        [put(1, 10), put(4, 11), remove(1), put(7, 12), get(8), put(1, 13)],
        [put(2, 20), put(5, 21), get(1), put(8, 22), remove(5), put(2, 23)],
        [put(3, 30), get(4), put(6, 31), remove(3), put(9, 32), get(7)],
      ], leafCapacity: 4)
  }

  /// At each order and fence of the first thread's operation the second reads what it has changed.
  private static var interruptedReads: Scenario {
    interrupted(
      "tree-group-interrupted-reads",
      (0..<16 as Range<UInt64>).map { i in
        let key = 40 * (i / 2) + 13
        // New keys, and the same ones again or away.
        let change = i % 2 == 0 ? put(key, i) : i % 4 == 1 ? put(key, i + 100) : remove(key)
        return (change, get(i % 3 == 2 ? key + 7 : key), Int(i / 2 % 3))
      })
  }

  /// The second changes, durably or under a group, the leaf that the first has changed.
  private static var interruptedWrites: Scenario {
    interrupted(
      "tree-group-interrupted-writes",
      (0..<16 as Range<UInt64>).map { i in
        let key = 40 * (i / 2) + 13
        let first = i % 4 == 3 ? remove(key) : put(key, i)
        let second =
          switch i % 5 {
          case 0: TreeScenarios.put(key + 1, i)
          case 1: put(key + 1, i)
          case 2: TreeScenarios.remove(key)
          case 3: remove(key - 3)
          default: TreeScenarios.put(key, 500 + i)
          }
        return (first, second, Int(i / 2 % 3))
      })
  }

  /// Both change leaves under the same group, and the second waits for it while the first is about to fence.
  private static var sharedGroup: Scenario {
    func put(_ key: UInt64, _ value: UInt64) -> Operation {
      Operation("put under the shared group") { subject in
        let old = try subject.tree.updateValue(value, forKey: key, in: subject.group)
        try subject.group.wait()
        return old
      } model: {
        $0.updateValue(value, forKey: key)
      }
    }
    return interrupted(
      "tree-group-shared",
      (0..<12 as Range<UInt64>).map { i in (put(20 * i + 13, i), put(20 * i + 113, 100 + i), Int(i % 3)) })
  }

  private static func interrupted(_ name: String, _ pairs: [(Operation, Operation, Int)]) -> Scenario {
    var scenario = TreeScenarios.base(name, threads: [pairs.map(\.0), pairs.map(\.1)], leafCapacity: 4)
    scenario.interruptions = pairs.map(\.2)
    let create = scenario.create
    scenario.create = { region in
      let subject = try create(region)
      for i in 1..<40 { try subject.tree.updateValue(UInt64(i), forKey: UInt64(i) * 10) }
      return subject
    }
    scenario.continuation = [TreeScenarios.put(1000, 1), TreeScenarios.put(3, 2), TreeScenarios.remove(1000)]
    return scenario
  }
}
