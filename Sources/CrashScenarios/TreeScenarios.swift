import NVMBTree
import NVMRegion
import NVMTesting
import NVMalloc

/// The B+-tree with nodes of four entries, so that splits and merges of leaves, inner nodes and roots happen within
/// a few dozen operations.
enum TreeScenarios {
  static func all(seed: UInt64) -> [AnyScenario] {
    [
      AnyScenario(words("tree-insert-ascending", inserts((1...14).map { $0 }))),
      AnyScenario(words("tree-insert-descending", inserts((1...14).reversed()))),
      AnyScenario(
        words("tree-insert-random", inserts([50, 10, 30, 20, 40, 60, 25, 35, 15, 45, 5, 55, 12, 33]))),
      AnyScenario(words("tree-update", updates)),
      AnyScenario(words("tree-delete-and-merge", deletes)),
      AnyScenario(words("tree-mixed", mixed(seed: seed, count: 50)), isSeeded: true),
      AnyScenario(words("tree-reopen", reopens)),
      AnyScenario(words("tree-bulk-load", bulkLoads)),
      AnyScenario(words("tree-remove-range", rangeRemovals)),
      AnyScenario(wideLeaf),
      AnyScenario(records("tree-records", recordOperations)),
      AnyScenario(records("tree-records-mixed", mixedRecords(seed: seed, count: 40)), isSeeded: true),
      AnyScenario(twoWriters, isSeeded: true), AnyScenario(TreeRepairScenarios.tornSplit),
      AnyScenario(TreeRepairScenarios.emptyLeaf),
    ] + TreeInterruptions.all + TreeBatchScenarios.all() + TreeGroupScenarios.all
  }

  // MARK: Words to words

  private typealias WordTree = TreeSubject<UInt64, UInt64>
  private typealias WordOperation = CrashOperation<WordTree, [UInt64: UInt64]>

  private static func words(
    _ name: String, _ operations: [WordOperation]
  ) -> CrashScenario<TreeSubject<UInt64, UInt64>, [UInt64: UInt64]> {
    var scenario = base(name, threads: [operations], leafCapacity: 4)
    scenario.continuation = [put(1000, 1), put(3, 2), remove(1000)]
    return scenario
  }

  static func base<Key: DurableKey & Hashable, Value: DurableValue & Equatable>(
    _ name: String, threads: [[CrashOperation<TreeSubject<Key, Value>, [Key: Value]>]], leafCapacity: Int
  ) -> CrashScenario<TreeSubject<Key, Value>, [Key: Value]> {
    var scenario = CrashScenario<TreeSubject<Key, Value>, [Key: Value]>(
      name, create: { try TreeSubject(creating: $0, leafCapacity) },
      open: { try TreeSubject(opening: $0, leafCapacity) }, observe: { try $0.content() }, threads: threads)
    scenario.regionSize = 96 << 10
    scenario.invariant = { try $0.check() }
    scenario.close = { $0.close() }
    return scenario
  }

  static func put(_ key: UInt64, _ value: UInt64) -> CrashOperation<
    TreeSubject<UInt64, UInt64>, [UInt64: UInt64]
  > {
    WordOperation("put") {
      try $0.tree.updateValue(value, forKey: key)
    } model: {
      $0.updateValue(value, forKey: key)
    }
  }
  static func remove(_ key: UInt64) -> CrashOperation<
    TreeSubject<UInt64, UInt64>, [UInt64: UInt64]
  > {
    WordOperation("remove") {
      try $0.tree.removeValue(forKey: key)
    } model: {
      $0.removeValue(forKey: key)
    }
  }
  private static func get(_ key: UInt64) -> WordOperation {
    WordOperation("get") {
      try $0.tree[key]
    } model: {
      $0[key]
    }
  }

  private static func inserts(_ keys: [UInt64]) -> [WordOperation] { keys.map { put($0, $0 * 7) } }

  /// In place in the first slot, and into new slots, in full leaves and others.
  private static var updates: [WordOperation] {
    inserts([1, 2, 3, 4, 5]) + [
      put(1, 70), put(5, 71), put(5, 72), put(2, 73), put(2, 74), put(3, 75), put(1, 76), get(1),
    ]
  }

  private static var deletes: [WordOperation] {
    inserts((1...12).map { $0 }) + [3, 4, 2, 1, 12, 11, 6, 7, 5, 9, 10, 8].map { remove($0) } + [put(4, 4)]
  }

  private static var reopens: [WordOperation] {
    inserts([1, 2, 3, 4, 5, 6]) + [
      .reopen, put(7, 1), remove(2), .restart, put(2, 9), remove(1), .restart, remove(3), .reopen,
    ]
  }

  private static var bulkLoads: [WordOperation] {
    func load(_ range: ClosedRange<UInt64>) -> WordOperation {
      WordOperation("bulk load") {
        try $0.tree.append(contentsOf: range.map { ($0, $0 * 3) })
      } model: {
        for key in range { $0[key] = key * 3 }
      }
    }
    // The last one below the range of a leaf that was emptied.
    return [
      load(10...23), put(5, 5), load(30...33), remove(33), remove(32), load(40...40), remove(40),
      load(35...36),
    ]
  }

  /// Over many leaves, each an atomic step, the lowest first: from the middle of one leaf to that of another, the
  /// whole tree, and what is left of a tree of several levels.
  private static var rangeRemovals: [WordOperation] {
    func removeAll(_ range: ClosedRange<UInt64>) -> WordOperation {
      @Sendable func keys(_ model: [UInt64: UInt64]) -> [UInt64] {
        model.keys.filter { range.contains($0) }.sorted()
      }
      return WordOperation("remove range") {
        try $0.tree.removeAll(in: range)
      } model: { model in
        let removed = keys(model)
        for key in removed { model[key] = nil }
        return removed.count
      }
      .inParts { before in
        let removed = keys(before)
        return removed.indices.map { count in before.filter { !removed[..<count].contains($0.key) } }
      }
    }
    return inserts((1...22).map { $0 }) + [
      removeAll(6...13), put(9, 9), removeAll(15...15), removeAll(2...21), put(3, 3), removeAll(0...40),
      put(1, 1),
    ]
  }

  private static func mixed(seed: UInt64, count: Int) -> [WordOperation] {
    var random = SeededGenerator(seed: seed)
    return (0..<count).map { i in
      let key = UInt64(random.below(16))
      return random.below(10) < (i % 30 < 15 ? 7 : 3) ? put(key, UInt64(i)) : remove(key)
    }
  }

  /// Leaves of full size: entries move between lines, and a range is removed in one step.
  private static var wideLeaf: CrashScenario<TreeSubject<UInt64, UInt64>, [UInt64: UInt64]> {
    let removeRange = WordOperation("remove range") {
      try $0.tree.removeAll(in: 5...15)
    } model: { model in
      let keys = model.keys.filter { (5...15).contains($0) }
      for key in keys { model[key] = nil }
      return keys.count
    }
    let operations =
      inserts((0..<20).map { $0 * 7 % 23 }) + [put(0, 1), put(7, 2), removeRange, put(6, 6), put(8, 8)]
    return base("tree-wide-leaf", threads: [operations], leafCapacity: 27)
  }

  /// Two writers on leaves of their own and on common ones.
  private static var twoWriters: CrashScenario<TreeSubject<UInt64, UInt64>, [UInt64: UInt64]> {
    let first: [WordOperation] = [
      put(2, 1), put(4, 1), put(6, 1), put(8, 1), remove(4), put(10, 1), put(2, 2),
    ]
    let second: [WordOperation] = [
      put(3, 1), put(5, 1), put(7, 1), put(9, 1), remove(7), put(11, 1), put(3, 2),
    ]
    return base("tree-two-writers", threads: [first, second], leafCapacity: 4)
  }

  // MARK: Strings to strings, in records

  private typealias RecordTree = TreeSubject<String, String>
  private typealias RecordOperation = CrashOperation<RecordTree, [String: String]>

  private static func records(
    _ name: String, _ operations: [RecordOperation]
  ) -> CrashScenario<TreeSubject<String, String>, [String: String]> {
    var scenario = base(name, threads: [operations], leafCapacity: 4)
    scenario.continuation = [put("a further key", "a further value"), remove("a further key")]
    return scenario
  }

  private static func put(_ key: String, _ value: String) -> RecordOperation {
    RecordOperation("put record") {
      try $0.tree.updateValue(value, forKey: key)
    } model: {
      $0.updateValue(value, forKey: key)
    }
  }
  private static func remove(_ key: String) -> RecordOperation {
    RecordOperation("remove record") {
      try $0.tree.removeValue(forKey: key)
    } model: {
      $0.removeValue(forKey: key)
    }
  }

  private static var recordOperations: [RecordOperation] {
    let long = String(repeating: "v", count: 70)
    return [
      put("a", "b"), put("a", long), put("key number one", "1"), put("key number two", long),
      put("key number one", long),
      put("a", "c"), put("key number three", ""), put("key number four", "4"), remove("key number two"),
      .restart,
      put("key number two", "2"), remove("a"), remove("key number one"), .reopen,
      put("key number one", "again"),
    ]
  }

  private static func mixedRecords(seed: UInt64, count: Int) -> [RecordOperation] {
    var random = SeededGenerator(seed: seed &+ 77)
    return (0..<count).map { i in
      let n = random.below(9)
      let key = n % 3 == 0 ? "k\(n)" : "a common prefix \(n)"
      guard random.below(10) < 6 else { return remove(key) }
      return put(
        key, random.below(2) == 0 ? "\(i)" : String(repeating: "\(i % 10)", count: 8 + random.below(80)))
    }
  }
}

/// A heap with one tree in a tiny region.
final class TreeSubject<Key: DurableKey & Hashable, Value: DurableValue & Equatable>: Sendable {
  let heap: PersistentHeap
  let tree: DurableBTree<Key, Value>
  /// A group for changes of several threads.
  let group: PersistGroup

  private static func options(_ leafCapacity: Int) -> TreeOptions {
    TreeOptions(leafCapacity: leafCapacity, innerCapacity: 3, extentBytes: 4 << 10)
  }

  init(creating region: PersistentRegion, _ leafCapacity: Int) throws {
    var options = HeapOptions()
    options.geometry = .tiny
    options.quarantine = .none
    heap = try PersistentHeap.format(region, options: options)
    tree = try DurableBTree(in: heap, root: "tree", options: Self.options(leafCapacity))
    group = region.makePersistGroup()
  }

  init(opening region: PersistentRegion, _ leafCapacity: Int) throws {
    var options = HeapOptions()
    options.quarantine = .none
    heap = try PersistentHeap.open(region, options: options)
    tree = try DurableBTree(in: heap, root: "tree", options: Self.options(leafCapacity))
    group = region.makePersistGroup()
    if tree.recovery.isSealed { throw TreeFault("the tree is sealed: \(tree.recovery.damage)") }
  }

  func content() throws -> [Key: Value] {
    var result: [Key: Value] = [:]
    try tree[...].forEach { result[$0.key] = $0.value }
    return result
  }

  /// Tree and heap are sound, and every block belongs to the tree and is in use.
  func check() throws {
    let report = try tree.verify()
    guard report.isClean else { throw TreeFault(report.problems.joined(separator: " ")) }
    guard report.unreachableRecords <= tree.statistics.waitingForReaders else {
      throw TreeFault("\(report.unreachableRecords) records leaked")
    }
    let heapReport = try heap.verify()
    guard heapReport.problems.isEmpty else { throw TreeFault("\(heapReport.problems)") }
    var roots = 0
    try heap.forEachBlock { (block) throws(NVMError) in
      switch block.tag {
      case .treeRoot: roots += 1
      case .treeNodes, .treeRecord: break
      default:
        throw NVMError(code: .corrupt, message: "a block of nobody", offset: block.payload.rawValue)
      }
    }
    guard roots == 1 else { throw TreeFault("\(roots) tree headers") }
  }

  func close() {
    tree.close()
    heap.close()
  }
}

struct TreeFault: Error, CustomStringConvertible {
  let description: String
  init(_ what: String) { description = what }
}
