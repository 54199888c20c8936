import Foundation
import NVM
import NVMBTree
import XCTest

/// Whole stores against sorted arrays: every operation of trees of several types that share one file, transactions over
/// them, reopening, on every medium; by seeded random operations. `NVM_MODEL_SECONDS` makes it run longer,
/// `NVM_SEED` repeats one.
final class StoreModelTests: StoreTestCase {
  private var seconds: Double {
    ProcessInfo.processInfo.environment["NVM_MODEL_SECONDS"].flatMap(Double.init) ?? 3
  }
  private var seed: UInt64 {
    ProcessInfo.processInfo.environment["NVM_SEED"].flatMap { UInt64($0) } ?? .random(in: 0 ... .max)
  }

  func testAgainstSortedArrays() throws {
    let start = ContinuousClock.now
    var seed = seed
    var round = 0
    while round < 6 || ContinuousClock.now - start < .seconds(seconds) {
      defer { round += 1 }
      let media: [RegionOptions.MediaChoice] = [.emulated, .journaledFile, .inPlaceFile]
      let sizes = [
        TreeOptions(leafCapacity: 4, innerCapacity: 3, extentBytes: 16 << 10),
        TreeOptions(leafCapacity: 9, innerCapacity: 5, extentBytes: 16 << 10), TreeOptions(),
      ]
      var options = options
      options.media = media[round % 3]
      options.treeOptions = sizes[Int(seed % 3)]
      options.verifiesReads = seed & 32 != 0
      options.quarantine = seed & 64 != 0 ? .none : .quarantine(.milliseconds(1))
      let name = "seed \(seed), \(media[round % 3])"
      do {
        try Model(path("\(round).nvm"), options, seed: seed).run(steps: seconds > 3 ? 1500 : 350)
      } catch {
        return XCTFail("\(name): \(error)")
      }
      try FileManager.default.removeItem(atPath: path("\(round).nvm"))
      seed &+= 1
    }
  }
}

private struct Mismatch: Error, CustomStringConvertible {
  var description: String
}

private struct Intended: Error {}

private func expect(_ isRight: Bool, _ what: @autoclosure () -> String) throws {
  if !isRight { throw Mismatch(description: what()) }
}

/// One store and what should be in it.
private final class Model {
  private let path: String
  private let options: NVMStoreOptions
  private var random: SeededGenerator
  private var store: NVMStore
  private var trees: [any ModelTree] = []
  private var groups: [PersistGroup] = []

  init(_ path: String, _ options: NVMStoreOptions, seed: UInt64) throws {
    self.path = path
    self.options = options
    random = SeededGenerator(seed: seed)
    store = try NVMStore(path: path, options: options)
    trees = [
      TreeAndModel<Int, Int>("words", Self.word, { Int.random(in: .min ... .max, using: &$0) }),
      TreeAndModel<Int, [UInt8]>("bytes", Self.word, Self.bytes),
      TreeAndModel<[UInt8], [UInt8]>("long keys", Self.longKey, Self.bytes),
      TreeAndModel<String, Int>("texts", Self.text, { Int.random(in: -5...5, using: &$0) }),
      TreeAndModel<CompositeKey2<[UInt8], Int16>, Int?>(
        "pairs",
        { CompositeKey2(Self.longKey(&$0), Int16.random(in: -2...2, using: &$0)) },
        { Bool.random(using: &$0) ? nil : Int.random(in: 0...9, using: &$0) }),
    ]
    for tree in trees { try tree.open(store) }
  }

  private static func word(_ random: inout SeededGenerator) -> Int {
    switch Int.random(in: 0..<20, using: &random) {
    case 0: [.min, .max, 0, -1, .min + 1, .max - 1].randomElement(using: &random)!
    case 1: Int.random(in: .min ... .max, using: &random)
    default: Int.random(in: -2000...2000, using: &random)
    }
  }
  private static func longKey(_ random: inout SeededGenerator) -> [UInt8] {
    let prefixes: [[UInt8]] = [
      [], Array("https://example.org/a/very/long/path/that/all/share/".utf8), Array("https://".utf8),
      [UInt8](repeating: 0xFF, count: 9), [UInt8](repeating: 0, count: 8), [UInt8](repeating: 65, count: 140),
    ]
    var key = prefixes.randomElement(using: &random)!
    for _ in 0..<Int.random(in: 0...12, using: &random) where Int.random(in: 0..<4, using: &random) != 0 {
      key.append([0, 1, 65, 66, 254, 255].randomElement(using: &random)!)
    }
    if Int.random(in: 0..<300, using: &random) == 0 { key += [UInt8](repeating: 9, count: 5000) }
    return key
  }
  private static func text(_ random: inout SeededGenerator) -> String {
    let parts = ["", "a", "é", "e\u{301}", "日本", "common prefix ", "\u{0}", "z", "\u{1F600}", "\u{FFFF}"]
    return (0..<Int.random(in: 0...5, using: &random)).map { _ in parts.randomElement(using: &random)! }
      .joined()
  }
  private static func bytes(_ random: inout SeededGenerator) -> [UInt8] {
    let count =
      switch Int.random(in: 0..<40, using: &random) {
      case 0: Int.random(in: 60_000...70_000, using: &random)
      case 1: Int.random(in: 1000...5000, using: &random)
      case 2: [0, 1, 7, 8, 9, 47, 48, 49, 63, 64, 65].randomElement(using: &random)!
      default: Int.random(in: 0...40, using: &random)
      }
    return [UInt8](repeating: UInt8.random(in: 0...255, using: &random), count: count)
  }

  func run(steps: Int) throws {
    for step in 0..<steps {
      let tree = trees.randomElement(using: &random)!
      switch Int.random(in: 0..<300, using: &random) {
      case 0..<3: try reopen()
      case 3..<5:
        try tree.remove(store)
        try tree.open(store)
      case 5..<40: try transaction()
      case 40..<50:
        let group = store.makePersistGroup()
        for _ in 0..<5 { try tree.changeUnder(group, &random) }
        if Bool.random(using: &random) { try group.wait() } else { groups.append(group) }
      case 50: try verify()
      default: try tree.step(&random, growing: step / 100 % 2 == 0)
      }
    }
    try reopen()
    for tree in trees { try tree.empty(&random) }
    try verify()
    try store.close()
  }

  private func verify() throws {
    let report = try store.verify()
    try expect(report.isClean, "\(report.problems)")
    for tree in trees { try tree.compare() }
  }

  private func reopen() throws {
    try verify()
    if Bool.random(using: &random) {
      try store.close()
    } else {
      // As if the process had ended; what is under groups is asked for before.
      for group in groups { try group.wait() }
      store.abandon()
    }
    groups = []
    store = try NVMStore.open(path: path, options: options)
    for tree in trees { try tree.open(store) }
    try verify()
  }

  /// Changes of several trees; some are thrown away.
  private func transaction() throws {
    let fails = Int.random(in: 0..<3, using: &random) == 0
    let kept = trees.map { $0.save() }
    do {
      try store.write { tx in
        for _ in 0..<Int.random(in: 0...4, using: &random) {
          try trees.randomElement(using: &random)!.change(in: tx, &random)
        }
        if fails { throw Intended() }
      }
      try expect(!fails, "a transaction that threw was committed")
    } catch is Intended {
      for (tree, copy) in zip(trees, kept) { tree.restore(copy) }
    }
  }
}

private protocol ModelTree: AnyObject {
  func open(_ store: NVMStore) throws
  func remove(_ store: NVMStore) throws
  func step(_ random: inout SeededGenerator, growing: Bool) throws
  func changeUnder(_ group: PersistGroup, _ random: inout SeededGenerator) throws
  func change(in tx: StoreTransaction, _ random: inout SeededGenerator) throws
  func compare() throws
  func empty(_ random: inout SeededGenerator) throws
  func save() -> Any
  func restore(_ copy: Any)
}

private final class TreeAndModel<Key: DurableKey, Value: DurableValue & Equatable>: ModelTree {
  private typealias Entry = (key: Key, value: Value)
  private let name: String
  private let newKey: (inout SeededGenerator) -> Key
  private let newValue: (inout SeededGenerator) -> Value
  private var tree: DurableBTree<Key, Value>!
  private var model: [Entry] = []

  init(
    _ name: String, _ newKey: @escaping (inout SeededGenerator) -> Key,
    _ newValue: @escaping (inout SeededGenerator) -> Value
  ) {
    (self.name, self.newKey, self.newValue) = (name, newKey, newValue)
  }

  func open(_ store: NVMStore) throws { tree = try store.tree(name, of: Key.self, Value.self) }
  func remove(_ store: NVMStore) throws {
    try store.removeTree(named: name)
    model = []
  }
  func save() -> Any { model }
  func restore(_ copy: Any) { model = copy as! [Entry] }

  // MARK: The model

  private func lowerBound(_ key: Key) -> Int {
    var low = 0
    var high = model.count
    while low < high {
      let middle = (low + high) / 2
      if model[middle].key.compareKey(to: key) < 0 { low = middle + 1 } else { high = middle }
    }
    return low
  }
  private func find(_ key: Key) -> Int? {
    let i = lowerBound(key)
    return i < model.count && model[i].key.compareKey(to: key) == 0 ? i : nil
  }
  @discardableResult
  private func set(_ key: Key, _ value: Value?) -> Value? {
    let i = lowerBound(key)
    if i < model.count, model[i].key.compareKey(to: key) == 0 {
      let old = model[i].value
      if let value { model[i].value = value } else { model.remove(at: i) }
      return old
    }
    if let value { model.insert((key, value), at: i) }
    return nil
  }
  private func someKey(_ random: inout SeededGenerator) -> Key {
    Bool.random(using: &random)
      ? model.randomElement(using: &random)?.key ?? newKey(&random) : newKey(&random)
  }

  // MARK: Comparing

  private func expectSame(_ a: Entry?, _ b: Entry?, _ what: String) throws {
    switch (a, b) {
    case (nil, nil): return
    case (let a?, let b?) where a.key.compareKey(to: b.key) == 0 && a.value == b.value: return
    default: throw Mismatch(description: "\(name), \(what): \(a as Any) instead of \(b as Any)")
    }
  }
  private func expectSame(_ range: DurableRange<Key, Value>, _ wanted: [Entry], _ what: String) throws {
    var iterator = range.makeIterator()
    for entry in wanted { try expectSame(try iterator.nextEntry(), entry, what) }
    try expectSame(try iterator.nextEntry(), nil, what)
  }
  func compare() throws {
    try expect(tree.count == model.count, "\(name) counts \(tree.count) instead of \(model.count)")
    try expectSame(try tree[...], model, "forward")
    try expectSame(try tree[...].reversed(), model.reversed(), "backward")
    var i = 0
    try tree[...].forEachBytes { key, value in
      try key.withUnsafeBytes { bytes in
        let key = Key(keyBytes: bytes)
        let value = value.withUnsafeBytes { Value(valueBytes: $0) }
        guard let key, let value else { throw Mismatch(description: "\(name): bytes of no entry") }
        try expectSame((key, value), model[i], "bytes")
      }
      i += 1
      return true
    }
    try expect(i == model.count, "\(name): \(i) entries by their bytes")
  }

  // MARK: Steps

  func step(_ random: inout SeededGenerator, growing: Bool) throws {
    let key = someKey(&random)
    let value = newValue(&random)
    switch Int.random(in: 0..<22, using: &random) {
    case 0: try expect(try tree.updateValue(value, forKey: key) == set(key, value), "\(name): replaced")
    case 1:
      try tree.setValue(value, forKey: key)
      set(key, value)
    case 2:
      let isNew = try tree.insertValue(value, forKey: key)
      try expect(isNew == (find(key) == nil), "\(name): inserted")
      if isNew { set(key, value) }
    case 3: try expect(try tree.removeValue(forKey: key) == set(key, nil), "\(name): removed")
    case 4:
      let now = try tree.updateValue(forKey: key) { $0 == nil ? value : nil }
      set(key, find(key) == nil ? value : nil)
      try expect(now == find(key).map { model[$0].value }, "\(name): transformed")
      do {
        try tree.updateValue(forKey: key) { _ in throw Intended() }
        throw Mismatch(description: "\(name): what a transformation throws is lost")
      } catch is Intended {}
    case 5:
      let old = find(key).map { model[$0].value }
      let expected = Bool.random(using: &random) ? old : value
      let done = try tree.compareExchange(forKey: key, expected: expected, desired: value)
      try expect(done == (old == expected), "\(name): exchanged")
      if done { set(key, value) }
    case 6, 7:
      let entries = (0..<Int.random(in: 0...100, using: &random)).map { _ in
        (someKey(&random), newValue(&random))
      }
      let before = model.count
      for (key, value) in entries { set(key, value) }
      try expect(try tree.updateValues(entries) == model.count - before, "\(name): new in a batch")
    case 8: try append(&random)
    case 9:
      let other = someKey(&random)
      let (a, b) = (
        Int.random(in: 0..<6, using: &random) == 0 ? nil : key, Bool.random(using: &random) ? nil : other
      )
      // Not too much at once.
      let low = a.map(lowerBound) ?? 0
      let high = b.map(lowerBound) ?? model.count
      guard high - low < (growing ? 30 : 400) else { return }
      let count = try tree.removeAll(from: a, to: b)
      try expect(count == max(0, high - low), "\(name): \(count) of a range were removed")
      if high > low { model.removeSubrange(low..<high) }
    case 10, 11:
      // A run, from its beginning, its end or all over.
      let start = lowerBound(key)
      var run = model[
        start..<min(model.count, start + Int.random(in: 0...(growing ? 20 : 300), using: &random))
      ]
      .map(\.key)
      if Bool.random(using: &random) {
        run.reverse()
      } else if Bool.random(using: &random) {
        run.shuffle(using: &random)
      }
      for key in run {
        try expect(try tree.removeValue(forKey: key) == set(key, nil), "\(name): removed in a run")
      }
    case 12:
      let (a, b) = (lowerBound(key), lowerBound(someKey(&random)))
      guard a <= b, b < model.count else { return }
      let range = try tree.range(from: model[a].key, to: model[b].key)
      try expectSame(range, Array(model[a..<b]), "range")
      try expectSame(range.reversed(), model[a..<b].reversed(), "reverse range")
      try expectSame(try tree.range(from: model[b].key, to: model[a].key), [], "crossed range")
    case 13: try walk(&random)
    case 14:
      let keys = (0..<Int.random(in: 0...80, using: &random)).map { _ in someKey(&random) }
      let wanted = keys.map { key in find(key).map { model[$0].value } }
      try expect(try tree.values(forKeys: keys) == wanted, "\(name): values of many keys")
    case 15:
      let wanted = find(key).map { model[$0].value }
      try expect(try tree.value(forKey: key) == wanted, "\(name): value")
      try expect(try tree.contains(key) == (wanted != nil), "\(name): contains")
      let found = try tree.withBytes(forKey: key) { span in
        span?.withUnsafeBytes { Value(valueBytes: $0) } ?? nil
      }
      try expect(found == wanted, "\(name): bytes of a value")
    case 16:
      let i = lowerBound(key)
      try expectSame(try tree.lowerBound(key), i < model.count ? model[i] : nil, "lower bound")
      let above = find(key) == nil ? i : i + 1
      try expectSame(try tree.upperBound(key), above < model.count ? model[above] : nil, "upper bound")
      try expectSame(try tree.first, model.first, "first")
      try expectSame(try tree.last, model.last, "last")
    default:
      guard growing else { return try expect(try tree.removeValue(forKey: key) == set(key, nil), "removed") }
      for _ in 0..<Int.random(in: 1...20, using: &random) {
        let (key, value) = (newKey(&random), newValue(&random))
        try tree.setValue(value, forKey: key)
        set(key, value)
      }
    }
  }

  private func append(_ random: inout SeededGenerator) throws {
    var entries: [Entry] = []
    for _ in 0..<Int.random(in: 0...200, using: &random) {
      entries.append((newKey(&random), newValue(&random)))
    }
    entries.sort { $0.key.compareKey(to: $1.key) < 0 }
    var fits = true
    if Bool.random(using: &random) {
      let last = model.last?.key
      entries = entries.filter { entry in last.map { $0.compareKey(to: entry.key) < 0 } ?? true }
    }
    for (i, entry) in entries.enumerated() {
      let before = i > 0 ? entries[i - 1].key : model.last?.key
      if let before, before.compareKey(to: entry.key) >= 0 { fits = false }
    }
    do {
      try tree.append(contentsOf: entries.map { ($0.key, $0.value) })
      try expect(fits, "\(name): entries out of order were appended")
      model += entries
    } catch let error as NVMError where error.code == .invalidArgument && !fits {}
  }

  private func walk(_ random: inout SeededGenerator) throws {
    let cursor = tree.makeCursor()
    // The place between entries before which the cursor stands, and whether it stands on the entry there.
    var at = -1
    for _ in 0..<30 {
      switch Int.random(in: 0..<8, using: &random) {
      case 0..<3:
        at = min(at + 1, model.count)
        try expectSame(try cursor.next(), at < model.count ? model[at] : nil, "next")
      case 3..<6:
        at = max(at - 1, -1)
        try expectSame(try cursor.previous(), at >= 0 ? model[at] : nil, "previous")
      case 6:
        let key = someKey(&random)
        at = lowerBound(key)
        try expectSame(try cursor.seek(to: key), at < model.count ? model[at] : nil, "seek")
      default:
        // A change behind, before or at the cursor's own place.
        let (key, value) = (someKey(&random), newValue(&random))
        guard at >= 0, at < model.count else { continue }
        let own = model[at].key
        guard own.compareKey(to: key) != 0 else { continue }
        let isThere = find(key) != nil
        try tree.setValue(value, forKey: key)
        set(key, value)
        at = lowerBound(own)
        _ = isThere
        // What lies ahead in the leaf under way may have been read already.
        try expectSame(try cursor.seek(to: own), model[at], "seek")
      }
    }
  }

  func changeUnder(_ group: PersistGroup, _ random: inout SeededGenerator) throws {
    let (key, value) = (someKey(&random), newValue(&random))
    switch Int.random(in: 0..<3, using: &random) {
    case 0:
      try tree.setValue(value, forKey: key, in: group)
      set(key, value)
    case 1:
      try expect(
        try tree.updateValue(value, forKey: key, in: group) == set(key, value), "\(name): replaced in a group"
      )
    default:
      try expect(
        try tree.removeValue(forKey: key, in: group) == set(key, nil), "\(name): removed in a group")
    }
  }

  func change(in tx: StoreTransaction, _ random: inout SeededGenerator) throws {
    let view = try tx[tree]
    for _ in 0..<Int.random(in: 0...60, using: &random) {
      let (key, value) = (someKey(&random), newValue(&random))
      switch Int.random(in: 0..<5, using: &random) {
      case 0:
        try expect(try view.updateValue(value, forKey: key) == set(key, value), "\(name): replaced in tx")
      case 1:
        try view.setValue(value, forKey: key)
        set(key, value)
      case 2:
        try expect(try view[key] == find(key).map { model[$0].value }, "\(name): read in tx")
        try expect(try view.contains(key) == (find(key) != nil), "\(name): contained in tx")
      default: try expect(try view.removeValue(forKey: key) == set(key, nil), "\(name): removed in tx")
      }
    }
  }

  func empty(_ random: inout SeededGenerator) throws {
    if Bool.random(using: &random) {
      try expect(try tree.removeAll() == model.count, "\(name): removed in all")
    } else {
      for entry in model.shuffled(using: &random) {
        try expect(try tree.removeValue(forKey: entry.key) == entry.value, "\(name): removed at the end")
      }
    }
    model = []
    try expect(tree.isEmpty, "\(name): not empty")
    try compare()
  }
}
