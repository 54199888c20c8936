import NVMRegion
import NVMalloc
import XCTest

@testable import NVMBTree

/// What can be rescued of a damaged tree: all but what the damage hit, and nothing that was not there.
final class TreeSalvageTests: XCTestCase {
  private var options: TreeOptions {
    var options = TreeOptions(leafCapacity: 6, innerCapacity: 4, extentBytes: 16 << 10)
    options.verifiesReads = true
    return options
  }

  private func salvage<Key, Value>(_ tree: DurableBTree<Key, Value>) throws -> (
    entries: [(key: [UInt8], value: [UInt8])], damage: [NVMError]
  ) {
    let encoded = EncodedTree(tree.share, keyTypeName: "", valueTypeName: "")
    var entries: [(key: [UInt8], value: [UInt8])] = []
    var damage: [NVMError] = []
    try encoded.salvage {
      damage.append($0)
    } _: { key, value in
      entries.append((key, value))
      return true
    }
    return (entries, damage)
  }

  /// The leaves of a tree in the order of the chain.
  private func chain(_ engine: TreeEngine) -> [Leaf] {
    var leaves: [Leaf] = []
    var node = engine.firstLeaf
    while node != 0 {
      leaves.append(engine.leaf(node))
      node = leaves[leaves.count - 1].next(leaves[leaves.count - 1].commit.alternate)
    }
    return leaves
  }

  private func keys(_ leaf: Leaf) -> [UInt64] {
    (0..<64).filter { leaf.commit.live >> UInt64($0) & 1 != 0 }.map { leaf.head($0) }
  }

  /// Leaves are zeroed, flipped, or copied over each other. Nodes that were given up lie about.
  func testBehindDamagedLeaves() throws {
    // Where leaves that had been given up were taken for the tree's: that cannot always be told.
    var mistaken: [UInt64] = []
    for seed: UInt64 in 1...300 {
      var random = SeededGenerator(seed: seed)
      // In a file that was closed: after a crash, damage may look like a change that was cut short.
      let path = FileManager.default.temporaryDirectory.path + "/nvm-salvage-\(getpid()).nvm"
      defer { unlink(path) }
      let region = try PersistentRegion.create(
        at: path, size: 1 << 20, options: RegionOptions(media: .emulated))
      let heap = try PersistentHeap.format(region)
      let tree = try DurableBTree<UInt64, UInt64>.create(in: heap, number: 3, options: options)
      var model: [UInt64: UInt64] = [:]
      for step in 0..<600 as Range<UInt64> {
        let key = UInt64.random(in: 0..<400, using: &random)
        if step % 3 == 2 {
          try tree.removeValue(forKey: key)
          model[key] = nil
        } else {
          try tree.setValue(step, forKey: key)
          model[key] = step
        }
      }
      let leaves = chain(tree.engine)
      let contents = leaves.map(keys)
      let places = leaves.map(\.offset.bytes)
      tree.close()
      heap.close()
      try region.close()
      var damaged = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
      var hit: Set<UInt64> = []
      // Of few leaves behind one whose link is gone it cannot be told whether they are the tree's.
      var isDoubtful = [Bool](repeating: false, count: leaves.count)
      for _ in 0..<Int.random(in: 1...3, using: &random) {
        let index = leaves.indices.randomElement(using: &random)!
        hit.formUnion(contents[index])
        let at = places[index]
        switch Int.random(in: 0..<3, using: &random) {
        case 0:
          for i in at..<at + 512 { damaged[i] = 0 }
          for i in index..<min(index + 4, leaves.count) { isDoubtful[i] = true }
        case 1:
          damaged[at + LeafLayout.next + 4 * Int.random(in: 0..<2, using: &random) + 2] ^= 1 << 3
          for i in index..<min(index + 4, leaves.count) { isDoubtful[i] = true }
        default: damaged[at + LeafLayout.firstSlot] ^= 0xFF
        }
      }
      for (keys, isDoubtful) in zip(contents, isDoubtful) where isDoubtful { hit.formUnion(keys) }
      try Data(damaged).write(to: URL(fileURLWithPath: path))
      let again = try PersistentRegion.open(
        at: path, options: RegionOptions(media: .emulated, access: .readOnly))
      let opened = try DurableBTree<UInt64, UInt64>.open(
        in: try PersistentHeap.open(again), at: tree.handle, options: options)
      let (entries, damage) = try salvage(opened)
      let keys = entries.map { $0.key.reduce(0) { $0 << 8 | UInt64($1) } }
      XCTAssertEqual(keys, keys.sorted(), "seed \(seed)")
      let values = entries.map { $0.value.reversed().reduce(0) { $0 << 8 | UInt64($1) } }
      if !Set(keys).isSuperset(of: Set(model.keys).subtracting(hit))
        || zip(keys, values).contains(where: { model[$0] != $1 })
      {
        mistaken.append(seed)
      }
      if keys.count < model.count { XCTAssertFalse(damage.isEmpty, "seed \(seed)") }
      if opened.recovery.isSealed { XCTAssertEqual(damage.first?.message, opened.recovery.damage.first) }
    }
    XCTAssertLessThanOrEqual(mistaken.count, 3, "seeds \(mistaken)")
  }

  /// Damage that was not there when the tree was opened: a leaf, a link, a record.
  func testDamageSinceOpening() throws {
    let heap = try makeHeap(megabytes: 2)
    let tree = try DurableBTree<String, String>.create(in: heap, number: 3, options: options)
    let words = (1000..<1200).map { "a key of more than seven bytes, \($0)" }
    for word in words { try tree.setValue("the value of " + word, forKey: word) }
    XCTAssertEqual(try salvage(tree).entries.count, 200)
    XCTAssertEqual(try salvage(tree).damage.count, 0)
    var record = Offset.null
    try heap.forEachBlock(tag: .treeRecord) { if record.isNull { record = $0.payload } }
    try heap.region.withWritable(record + 20, count: 1) { $0[0] ^= 1 }
    var found = try salvage(tree)
    XCTAssertEqual(found.entries.count, 199)
    XCTAssertEqual(found.damage.count, 1)
    // Behind the first leaf, so that a link leads to it.
    let leaves = chain(tree.engine)
    let count = leaves[7].commit.count
    try heap.region.withWritable(leaves[7].offset + LeafLayout.next, count: 8) {
      for i in 0..<8 { $0[i] = 0xEE }
    }
    found = try salvage(tree)
    XCTAssertEqual(found.entries.count, 199 - count)
    XCTAssertEqual(found.damage.count, 2)
    XCTAssertEqual(
      found.entries.map { String(decoding: $0.value, as: UTF8.self) },
      found.entries.map { "the value of " + String(decoding: $0.key, as: UTF8.self) })
    // The first and the last, too.
    for leaf in [leaves[0], leaves[leaves.count - 1]] {
      try heap.region.withWritable(leaf.offset + LeafLayout.next, count: 8) {
        $0[0] ^= 1; $0[4] ^= 1
      }
    }
    found = try salvage(tree)
    XCTAssertEqual(
      found.entries.count, 200 - count - leaves[0].commit.count - leaves[leaves.count - 1].commit.count)
    // The record was of the first one's.
    XCTAssertEqual(found.damage.count, 3)
    // It ends when it is told to.
    var seen = 0
    try EncodedTree(tree.share, keyTypeName: "", valueTypeName: "").salvage { _ in
    } _: { _, _ in
      seen += 1
      return seen < 3
    }
    XCTAssertEqual(seen, 3)
  }
}
