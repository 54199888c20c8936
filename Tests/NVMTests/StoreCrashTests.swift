import NVM
import XCTest

/// A crash before every fence of the store's own operations: what it may leave opens, and holds the state before or
/// after, and nothing is lost of the heap. (The trees' and the heap's own steps have tests of their own.)
final class StoreCrashTests: StoreTestCase {
  private let size = 512 << 10
  private let maximumSize = 8 << 20

  private var small: NVMStoreOptions {
    var options = options
    options.geometry = .tiny
    options.growthIncrement = 64 << 10
    options.treeOptions = TreeOptions(leafCapacity: 4, innerCapacity: 4, extentBytes: 4096)
    return options
  }

  private typealias Content = [String: [String: String]]

  private func open(_ image: [UInt8], medium: LineMedium? = nil) throws -> NVMStore {
    let region = try image.withUnsafeBytes {
      try PersistentRegion.inMemory(image: $0, size: $0.count, maximumSize: maximumSize, medium: medium)
    }
    return try NVMStore(region: region, isBlank: false, options: small)
  }

  private func content(_ store: NVMStore) throws -> Content {
    var all: Content = [:]
    for name in store.treeNames {
      var entries: [String: String] = [:]
      let tree = try store.tree(name, of: String.self, String.self)
      for (key, value) in try tree[...] { entries[key] = value }
      XCTAssertEqual(entries.count, tree.count)
      all[name] = entries
    }
    return all
  }

  /// Opens what a crash left and checks it; the store must also go on working.
  private func check(_ image: [UInt8], isOneOf allowed: [Content], _ what: String) throws {
    let store = try open(image)
    let found = try content(store)
    XCTAssert(allowed.contains(found), "\(what): \(found) is neither of \(allowed)")
    let report = try store.verify()
    XCTAssertEqual(report.problems, [], what)
    try store.tree("later", of: String.self, String.self).updateValue(
      "works, and is a record", forKey: "still")
    try store.write { tx in
      try tx[try store.tree("later", of: String.self, String.self)].setValue("2", forKey: "1")
      try tx[try store.tree("later 2", of: String.self, String.self)].setValue("4", forKey: "3")
    }
    XCTAssertEqual(try store.verify().problems, [], what)
    store.abandon()
  }

  /// Runs `operation` on a store in which `prepare` was done, with a crash before each of its fences.
  private func crash(
    _ name: String, prepare: (NVMStore) throws -> Void, operation: (NVMStore) throws -> Void
  ) throws {
    let seed = UInt64.random(in: 0 ... .max)
    var random = SeededGenerator(seed: seed)
    let medium = LineMedium()
    medium.setDurable([UInt8](repeating: 0, count: size))
    let region = try PersistentRegion.inMemory(
      image: nil, size: size, maximumSize: maximumSize, medium: medium)
    let store = try NVMStore(region: region, isBlank: true, options: small)
    try prepare(store)
    let before = try content(store)
    // What the state is afterwards, from a run without a crash.
    let rehearsal = try open(medium.image { _ in true })
    try operation(rehearsal)
    let after = try content(rehearsal)
    rehearsal.abandon()
    XCTAssertNotEqual(before, after)
    var points = 0
    var images = 0
    medium.beforeFence = { medium in
      points += 1
      for image in medium.images(&random) {
        images += 1
        try self.check(image, isOneOf: [before, after], "\(name), point \(points), seed \(seed)")
        if images % 5 == 0 {
          try self.crashInRecovery(image, [before, after], "\(name), point \(points), seed \(seed)", &random)
        }
      }
    }
    try operation(store)
    medium.beforeFence = nil
    if let failure = medium.failure { throw failure }
    try check(medium.image { _ in false }, isOneOf: [after], "\(name), acknowledged, seed \(seed)")
    XCTAssertGreaterThan(points, 3)
    store.abandon()
  }

  /// A second crash, while the store is being opened.
  private func crashInRecovery(
    _ image: [UInt8], _ allowed: [Content], _ what: String, _ random: inout SeededGenerator
  ) throws {
    let medium = LineMedium()
    var left: [[UInt8]] = []
    var copy = random
    medium.beforeFence = { medium in
      // The region's own first fence comes before the store's: the image is complete from the first one on.
      left.append(contentsOf: medium.images(&copy).filter { $0.count >= image.count })
    }
    medium.setDurable(image)
    let store = try open(image, medium: medium)
    _ = try content(store)
    store.abandon()
    random = copy
    for second in left.shuffled(using: &random).prefix(4) {
      try check(second, isOneOf: allowed, what + ", second crash")
    }
  }

  private func fill(_ store: NVMStore) throws {
    let a = try store.tree("a", of: String.self, String.self)
    let b = try store.tree("b", of: String.self, String.self)
    for i in 0..<6 {
      try a.updateValue("a longer value \(i)", forKey: "a longer key \(i)")
      try b.updateValue("\(i)", forKey: "\(i)")
    }
  }

  func testTransaction() throws {
    try crash("transaction", prepare: fill) { store in
      let a = try store.tree("a", of: String.self, String.self)
      let b = try store.tree("b", of: String.self, String.self)
      try store.write { tx in
        for i in 3..<9 {
          try tx[a].setValue("another longer value \(i)", forKey: "a longer key \(i)")
          try tx[b].removeValue(forKey: "\(i)")
        }
        try tx[b].setValue("new", forKey: "new")
      }
    }
  }

  func testTransactionOfOneChange() throws {
    try crash("one change", prepare: fill) { store in
      let a = try store.tree("a", of: String.self, String.self)
      try store.write { tx in try tx[a].setValue("another value, a record", forKey: "a longer key 1") }
    }
  }

  func testMakingATree() throws {
    try crash("making a tree", prepare: fill) { store in
      _ = try store.tree("new", of: String.self, String.self)
    }
  }

  func testRemovingATree() throws {
    try crash("removing a tree", prepare: fill) { store in try store.removeTree(named: "a") }
  }
}
