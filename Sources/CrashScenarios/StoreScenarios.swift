import NVM
import NVMBTree
import NVMRegion
import NVMTesting
import NVMalloc

/// The store: its catalogue of trees, and transactions over several of them.
enum StoreScenarios {
  typealias State = [String: [String: String]]
  private typealias Operation = CrashOperation<StoreSubject, State>

  static func all(seed: UInt64) -> [AnyScenario] {
    [
      AnyScenario(
        scenario(
          "store-catalogue",
          [
            make("a"), put("a", 1, 10), make("s"), putText("k", "v"), drop("a"), make("b"), put("b", 2, 20),
            make("a"), drop("s"),
          ])),
      AnyScenario(
        scenario(
          "store-transactions",
          [
            make("a"), make("b"), make("s"), transfer(1, 2, "x"), transfer(2, 3, "y"), put("a", 9, 9),
            transfer(1, 3, "a text that does not fit into a word"), undo(1, 2), undo(2, 3),
          ])),
      AnyScenario(
        scenario(
          "store-reopen",
          [
            make("a"), make("b"), make("s"), put("a", 1, 1), .reopen, transfer(1, 2, "x"), .restart,
            transfer(5, 6, "z"), put("b", 1, 1), .reopen, drop("b"),
          ])),
      AnyScenario(
        scenario("store-large-transaction", [make("a"), make("b"), make("s"), fill(1..<30), clear(1..<30)])),
      AnyScenario(
        scenario(
          "store-overwrites",
          [
            make("a"), make("b"), make("s"), fill(1..<10), rewrite(1..<10, 5), put("a", 4, 44),
            rewrite(3..<14, 6), undo(3, 4), rewrite(2..<8, 7), .reopen, rewrite(1..<6, 8),
          ])),
      AnyScenario(interrupted),
    ]
  }

  private static func scenario(_ name: String, _ operations: [Operation]) -> CrashScenario<
    StoreSubject, State
  > {
    var scenario = CrashScenario<StoreSubject, State>(
      name, create: { try StoreSubject($0, isBlank: true) }, open: { try StoreSubject($0, isBlank: false) },
      observe: { try $0.content() }, operations: operations)
    scenario.regionSize = 160 << 10
    scenario.maximumSize = 512 << 10
    scenario.invariant = { try $0.check() }
    scenario.close = { try $0.store.close() }
    scenario.continuation = [make("a"), make("b"), make("s"), transfer(70, 71, "on"), put("a", 72, 1)]
    return scenario
  }

  /// One makes and removes trees, the other changes trees meanwhile: at each order and fence of the first one's
  /// operation the second carries out a whole one.
  private static var interrupted: CrashScenario<StoreSubject, State> {
    var pairs: [(Operation, Operation, Int)] = []
    for moment in 0..<5 {
      let n = UInt64(moment + 1)
      pairs.append((make("b"), put("a", n, n), moment))
      pairs.append((drop("b"), put("a", n, n + 1), moment))
      pairs.append((put("a", n + 10, 1), make("b"), .max))
      pairs.append((put("a", n + 20, 1), drop("b"), moment))
    }
    var scenario = scenario("store-interrupted", [])
    scenario.threads = [pairs.map(\.0), pairs.map(\.1)]
    scenario.interruptions = pairs.map(\.2)
    let create = scenario.create
    scenario.create = { region in
      let subject = try create(region)
      try subject.makeTree("a")
      return subject
    }
    return scenario
  }

  // MARK: Operations

  private static func make(_ name: String) -> Operation {
    Operation("make tree") {
      try $0.makeTree(name)
    } model: {
      if $0[name] == nil { $0[name] = [:] }
    }
  }
  private static func drop(_ name: String) -> Operation {
    Operation("remove tree") {
      try $0.store.removeTree(named: name)
    } model: {
      $0[name] = nil
    }
  }
  private static func put(_ name: String, _ key: UInt64, _ value: UInt64) -> Operation {
    Operation("put") {
      try $0.words(name).setValue(value, forKey: key)
    } model: {
      $0[name]?["\(key)"] = "\(value)"
    }
  }
  private static func putText(_ key: String, _ value: String) -> Operation {
    Operation("put text") {
      try $0.texts().setValue(value, forKey: key)
    } model: {
      $0["s"]?[key] = value
    }
  }
  /// Three trees in one step.
  private static func transfer(_ from: UInt64, _ to: UInt64, _ note: String) -> Operation {
    Operation("transaction") { subject in
      let (a, b, s) = (try subject.words("a"), try subject.words("b"), try subject.texts())
      try subject.store.write { tx in
        try tx[a].updateValue(from, forKey: to)
        try tx[b].updateValue(to, forKey: from)
        try tx[s].updateValue(note, forKey: "note \(from)")
      }
    } model: { state in
      state["a"]?["\(to)"] = "\(from)"
      state["b"]?["\(from)"] = "\(to)"
      state["s"]?["note \(from)"] = note
    }
  }
  private static func undo(_ from: UInt64, _ to: UInt64) -> Operation {
    Operation("undo") { subject in
      let (a, b, s) = (try subject.words("a"), try subject.words("b"), try subject.texts())
      try subject.store.write { tx in
        try tx[a].removeValue(forKey: to)
        try tx[b].removeValue(forKey: from)
        try tx[s].removeValue(forKey: "note \(from)")
      }
    } model: { state in
      state["a"]?["\(to)"] = nil
      state["b"]?["\(from)"] = nil
      state["s"]?["note \(from)"] = nil
    }
  }
  private static func fill(_ keys: Range<UInt64>) -> Operation {
    Operation("fill") { subject in
      let (a, b) = (try subject.words("a"), try subject.words("b"))
      try subject.store.write { tx in
        for key in keys { try tx[key & 1 == 0 ? a : b].updateValue(key, forKey: key) }
      }
    } model: { state in
      for key in keys { state[key & 1 == 0 ? "a" : "b"]?["\(key)"] = "\(key)" }
    }
  }
  /// New values for some keys, whether they are there or not, and a text for each.
  private static func rewrite(_ keys: Range<UInt64>, _ value: UInt64) -> Operation {
    Operation("rewrite") { subject in
      let (a, s) = (try subject.words("a"), try subject.texts())
      try subject.store.write { tx in
        for key in keys {
          try tx[a].setValue(value &* key, forKey: key)
          try tx[s].setValue("\(key) is \(value) times \(key)", forKey: "note \(key)")
        }
      }
    } model: { state in
      for key in keys {
        state["a"]?["\(key)"] = "\(value &* key)"
        state["s"]?["note \(key)"] = "\(key) is \(value) times \(key)"
      }
    }
  }
  private static func clear(_ keys: Range<UInt64>) -> Operation {
    Operation("clear") { subject in
      let (a, b) = (try subject.words("a"), try subject.words("b"))
      try subject.store.write { tx in
        for key in keys { try tx[key & 1 == 0 ? a : b].removeValue(forKey: key) }
      }
    } model: { state in
      for key in keys { state[key & 1 == 0 ? "a" : "b"]?["\(key)"] = nil }
    }
  }
}

/// A store with trees "a" and "b" of words and "s" of texts, in tiny geometry.
final class StoreSubject: Sendable {
  let store: NVMStore

  init(_ region: PersistentRegion, isBlank: Bool) throws {
    var options = NVMStoreOptions()
    options.geometry = .tiny
    options.treeOptions = TreeOptions(leafCapacity: 4, innerCapacity: 3, extentBytes: 4 << 10)
    options.quarantine = .none
    options.growthIncrement = 32 << 10
    store = try NVMStore(region: region, isBlank: isBlank, options: options)
  }

  func words(_ name: String) throws -> DurableBTree<UInt64, UInt64> { try store.tree(name) }
  func texts() throws -> DurableBTree<String, String> { try store.tree("s") }
  func makeTree(_ name: String) throws {
    if name == "s" { _ = try texts() } else { _ = try words(name) }
  }

  func content() throws -> StoreScenarios.State {
    var result: StoreScenarios.State = [:]
    for name in store.treeNames {
      var entries: [String: String] = [:]
      if name == "s" {
        try texts()[...].forEach { entries[$0.key] = $0.value }
      } else {
        try words(name)[...].forEach { entries["\($0.key)"] = "\($0.value)" }
      }
      result[name] = entries
    }
    return result
  }

  /// The store's own check: each block is free or reachable, never both.
  func check() throws {
    let report = try store.verify()
    guard report.isClean else { throw ExampleError(report.problems.joined(separator: " ")) }
    guard report.leakedBlocks == 0 else { throw ExampleError("\(report.leakedBlocks) blocks leaked") }
  }
}
