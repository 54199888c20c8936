import CNVM
import NVMRegion
import NVMalloc
import XCTest

@testable import NVMBTree

/// Half-written leaves are brought to a settled state; rot is found and never believed.
final class TreeDamageTests: XCTestCase {
  private let options = TreeOptions(leafCapacity: 6, innerCapacity: 4, extentBytes: 16 << 10)

  private func open(_ image: [UInt8], _ handle: Offset) throws -> DurableBTree<UInt64, UInt64> {
    let region = try image.withUnsafeBytes {
      try PersistentRegion.inMemory(image: $0, size: image.count, maximumSize: image.count * 2, medium: nil)
    }
    return try DurableBTree.open(in: try PersistentHeap.open(region), at: handle, options: options)
  }

  private func image(_ heap: PersistentHeap) -> [UInt8] {
    Array(UnsafeRawBufferPointer(start: heap.region.baseAddress, count: heap.region.size))
  }

  /// Every prefix of the lines of one change: the leaf opens as before or as after.
  func testEveryMixOfOldAndNewLines() throws {
    var random = SeededGenerator(seed: 3)
    for round in 0..<60 {
      let heap = try makeHeap(megabytes: 1)
      let tree = try DurableBTree<UInt64, UInt64>.create(in: heap, number: 3, options: options)
      var model: [UInt64: UInt64] = [:]
      for _ in 0..<Int.random(in: 0..<40, using: &random) {
        let key = UInt64.random(in: 0..<60, using: &random)
        model[key] = key * 3
        try tree.setValue(key * 3, forKey: key)
      }
      let before = image(heap)
      var after = model
      let key = UInt64.random(in: 0..<60, using: &random)
      if round % 3 == 0 {
        after[key] = nil
        try tree.removeValue(forKey: key)
      } else {
        after[key] = 7
        try tree.setValue(7, forKey: key)
      }
      let done = image(heap)
      let lines = stride(from: 0, to: before.count, by: 64).filter {
        before[$0..<$0 + 64] != done[$0..<$0 + 64]
      }
      // A split writes a node that nothing refers to before its commit: at most this many lines differ.
      XCTAssertLessThan(lines.count, 14)
      for mix in 0..<min(1 << lines.count, 256) {
        let chosen = lines.count <= 8 ? mix : Int.random(in: 0..<1 << lines.count, using: &random)
        var mixed = before
        for (i, line) in lines.enumerated() where chosen >> i & 1 != 0 {
          mixed.replaceSubrange(line..<line + 64, with: done[line..<line + 64])
        }
        // What a split prepares elsewhere is ordered before any line of the leaf that it commits in.
        let inLeaf = lines.indices.filter { isWrittenNode(lines[$0], before) }
        let elsewhere = lines.indices.filter { !isWrittenNode(lines[$0], before) }
        if inLeaf.contains(where: { chosen >> $0 & 1 != 0 }),
          elsewhere.contains(where: { chosen >> $0 & 1 == 0 })
        {
          continue
        }
        let opened = try open(mixed, tree.handle)
        let content = Dictionary(uniqueKeysWithValues: try opened[...].map { ($0.key, $0.value) })
        XCTAssertTrue(content == model || content == after, "round \(round), lines \(chosen) of \(lines)")
        assertClean(try opened.verify(), "round \(round), mix \(chosen)")
        // And again: recovery is idempotent.
        opened.close()
        let twice = try DurableBTree<UInt64, UInt64>.open(
          in: opened.engine.heap, at: tree.handle, options: options)
        XCTAssertEqual(try twice[...].map(\.key), content.keys.sorted())
        XCTAssertEqual(twice.recovery.undoneChanges, 0)
      }
    }
  }

  private func isWrittenNode(_ line: Int, _ before: [UInt8]) -> Bool {
    let node = line & ~511
    return before[node + LeafLayout.tree] == 3 && before[node..<node + 8].contains { $0 != 0 }
  }

  /// Each bit of each leaf in use: found when the tree opens or by `verify`, or the content is right all the same.
  func testFlippedBitsAreFound() throws {
    let path = NSTemporaryDirectory() + "nvm-tree-\(UUID().uuidString)"
    defer { unlink(path) }
    var handle = Offset.null
    do {
      let region = try PersistentRegion.create(
        at: path, size: 1 << 20, options: RegionOptions(media: .emulated))
      let heap = try PersistentHeap.format(region)
      let tree = try DurableBTree<UInt64, UInt64>.create(in: heap, number: 3, options: options)
      for key in 0..<20 as Range<UInt64> { try tree.setValue(key, forKey: key) }
      handle = tree.handle
      tree.close()
      heap.close()
      try region.close()
    }
    let original = try [UInt8](Data(contentsOf: URL(fileURLWithPath: path)))
    let expected = Array(0..<20 as Range<UInt64>)
    var leaves: [Int] = []
    for offset in stride(from: 0, to: original.count, by: 512) {
      let isLeaf = original[offset + 504] == 3 && original[offset..<offset + 8].contains { $0 != 0 }
      if isLeaf { leaves.append(offset) }
    }
    XCTAssertGreaterThan(leaves.count, 3)
    var silent = 0
    var found = 0
    for leaf in leaves {
      for bit in stride(from: 0, to: 512 * 8, by: 7) {
        var flipped = original
        flipped[leaf + bit / 8] ^= 1 << UInt8(bit % 8)
        let opened = try open(flipped, handle)
        let report = try opened.verify()
        if opened.recovery.isSealed || !report.isClean {
          found += 1
          XCTAssertThrowsError(try opened.setValue(0, forKey: 0)) {
            XCTAssertEqual(($0 as? NVMError)?.code, .corrupt)
          }
        } else {
          silent += 1
          XCTAssertEqual(try opened[...].map(\.value), expected, "leaf at \(leaf), bit \(bit) was believed")
        }
      }
    }
    XCTAssertGreaterThan(found, silent / 8, "found \(found), harmless \(silent)")
  }

  func testDamagedChainSealsTheTree() throws {
    let heap = try makeHeap(megabytes: 1)
    let tree = try DurableBTree<UInt64, UInt64>.create(in: heap, number: 3, options: options)
    for key in 0..<200 as Range<UInt64> { try tree.setValue(key, forKey: key) }
    let second = tree.engine.leaf(tree.engine.firstLeaf).next(
      tree.engine.leaf(tree.engine.firstLeaf).commit.alternate)
    var damaged = image(heap)
    for i in 0..<64 { damaged[Int(second) * 512 + i] = 0xAA }
    let opened = try open(damaged, tree.handle)
    XCTAssertTrue(opened.recovery.isSealed)
    XCTAssertEqual(try opened[0], 0)
    XCTAssertThrowsError(try opened[150]) { XCTAssertEqual(($0 as? NVMError)?.code, .corrupt) }
    XCTAssertThrowsError(try opened.setValue(1, forKey: 1)) {
      XCTAssertEqual(($0 as? NVMError)?.code, .corrupt)
    }
    let range = try opened[...]
    // The first leaf's, and nothing of what the damaged one seems to hold.
    let found = Array(range).map(\.key)
    XCTAssertEqual(found, Array(0..<UInt64(found.count)))
    XCTAssertEqual(found.count, tree.engine.leaf(tree.engine.firstLeaf).commit.count)
    XCTAssertEqual(range.failure?.code, .corrupt, "an iteration that ends early says so")
    XCTAssertThrowsError(try range.forEach { _ in })
    // What is behind the damage is not known, so the last entry is not, nor the one before it.
    func throwsCorrupt(_ body: @autoclosure () throws -> Any?, line: UInt = #line) {
      XCTAssertThrowsError(try body(), line: line) {
        XCTAssertEqual(($0 as? NVMError)?.code, .corrupt, line: line)
      }
    }
    throwsCorrupt(try opened.last)
    throwsCorrupt(try opened.makeCursor().seekToLast())
    let end = found.last!
    for range in [try opened[...], try opened[...(end + 1)], try opened[...100]] {
      let backward = range.reversed()
      XCTAssertEqual(Array(backward).map(\.key), [])
      XCTAssertEqual(backward.failure?.code, .corrupt)
    }
    XCTAssertEqual(Array(try opened[..<end].reversed()).map(\.key), found.dropLast().reversed())
    XCTAssertEqual(try opened.first?.key, 0)
    XCTAssertEqual(try opened.lowerBound(end)?.key, end)
    throwsCorrupt(try opened.upperBound(end))
    throwsCorrupt(try opened.lowerBound(150))
    // Nothing was freed: the rest of the chain is as it was.
    XCTAssertEqual(opened.statistics.freeNodes, 0)
  }

  /// A link out of the region in a damaged leaf, and one back to the first leaf that its checksum vouches for: a scan
  /// ends before them.
  func testLinksThatLeadAstray() throws {
    for isBack in [false, true] {
      let heap = try makeHeap(megabytes: 1)
      let tree = try DurableBTree<UInt64, UInt64>.create(in: heap, number: 3, options: options)
      for key in 0..<200 as Range<UInt64> { try tree.setValue(key, forKey: key) }
      let engine = tree.engine
      let first = engine.leaf(engine.firstLeaf)
      let second = engine.leaf(first.next(first.commit.alternate))
      let third = engine.leaf(second.next(second.commit.alternate))
      var image: [UInt8]
      if isBack {
        let old = third.commit
        engine.setNext(third, alternate: !old.alternate, engine.firstLeaf)
        try engine.commit(
          third, old, live: old.live, alternate: !old.alternate,
          sum: engine.sum(third, old.live, alternate: !old.alternate))
        image = self.image(heap)
      } else {
        image = self.image(heap)
        for i in 0..<8 { image[Int(third.node) * 512 + LeafLayout.next + i] = 0xEE }
      }
      let opened = try open(image, tree.handle)
      XCTAssertTrue(opened.recovery.isSealed)
      let range = try opened[...]
      let found = Array(range).map(\.key)
      XCTAssertEqual(found, Array(0..<UInt64(found.count)))
      let leaves = isBack ? [first, second, third] : [first, second]
      XCTAssertEqual(found.count, leaves.reduce(0) { $0 + $1.commit.count })
      XCTAssertEqual(range.failure?.code, .corrupt)
      XCTAssertEqual(Array(try opened.range(from: 0, to: 3)).map(\.key), [0, 1, 2])
    }
  }

  /// The same in memory that rots while the tree is open.
  func testLinksThatRot() throws {
    for isBack in [false, true] {
      let heap = try makeHeap(megabytes: 1)
      let tree = try DurableBTree<UInt64, UInt64>.create(in: heap, number: 3, options: options)
      for key in 0..<200 as Range<UInt64> { try tree.setValue(key, forKey: key) }
      let first = tree.engine.leaf(tree.engine.firstLeaf)
      let second = tree.engine.leaf(first.next(first.commit.alternate))
      let link: UInt32 = isBack ? first.node : 0xEEEE_EEEE
      try heap.region.withWritable(second.offset + LeafLayout.next, count: 8) {
        $0.storeBytes(of: link, as: UInt32.self)
        $0.storeBytes(of: link, toByteOffset: 4, as: UInt32.self)
      }
      let range = try tree[...]
      let found = Array(range).map(\.key)
      XCTAssertEqual(found, Array(0..<UInt64(found.count)))
      XCTAssertEqual(range.failure?.code, .corrupt)
    }
  }

  func testDamagedRecord() throws {
    let heap = try makeHeap(megabytes: 1)
    let tree = try DurableBTree<UInt64, String>.create(in: heap, number: 3, options: options)
    for key in 0..<10 as Range<UInt64> { try tree.setValue("the value of number \(key)", forKey: key) }
    var record = Offset.null
    try heap.forEachBlock(tag: .treeRecord) { if record.isNull { record = $0.payload } }
    try heap.region.withWritable(record + 20, count: 1) { $0[0] = 0xFF }
    let report = try tree.verify()
    XCTAssertEqual(report.problems.count, 1)
    tree.close()
    var checking = options
    checking.verifiesReads = true
    let careful = try DurableBTree<UInt64, String>.open(in: heap, at: tree.handle, options: checking)
    var failures = 0
    for key in 0..<10 as Range<UInt64> {
      do throws(NVMError) { _ = try careful[key] } catch {
        XCTAssertEqual(error.code, .corrupt)
        failures += 1
      }
    }
    XCTAssertEqual(failures, 1)
  }

  /// A flipped bit in a leaf of words: found by the read that meets it, where reads are checked.
  func testDamagedLeafIsFoundByReading() throws {
    let heap = try makeHeap(megabytes: 1)
    var checking = options
    checking.verifiesReads = true
    let tree = try DurableBTree<UInt64, UInt64>.create(in: heap, number: 3, options: checking)
    for key in 0..<40 as Range<UInt64> { try tree.setValue(key * 3, forKey: key) }
    for key in 0..<40 as Range<UInt64> { XCTAssertEqual(try tree[key], key * 3) }
    XCTAssertEqual(Array(try tree[...]).count, 40)
    // The value of one of the last leaf's entries.
    let leaf = tree.engine.leaf(tree.engine.descend(SearchKey(head: 39)).leaf)
    let slot = leaf.commit.live.trailingZeroBitCount
    try heap.region.withWritable(leaf.offset + LeafLayout.slot(slot) + 8, count: 1) { $0[0] ^= 4 }
    XCTAssertThrowsError(try tree[39]) {
      XCTAssertEqual(($0 as? NVMError)?.code, .corrupt)
      XCTAssertEqual(($0 as? NVMError)?.offset, leaf.offset.rawValue)
    }
    XCTAssertThrowsError(try tree.values(forKeys: [0, 39]))
    XCTAssertEqual(try tree.values(forKeys: [0, 1]), [0, 3])
    for range in [try tree[...]] {
      XCTAssertLessThan(Array(range).count, 40)
      XCTAssertEqual(range.failure?.code, .corrupt)
      XCTAssertEqual(Array(range.reversed()).count, 0)
    }
  }

  /// Records that a crash left without a leaf are swept; those in use stay.
  func testOrphanedRecordsAreSwept() throws {
    let heap = try makeHeap(megabytes: 4)
    let tree = try DurableBTree<UInt64, String>.create(in: heap, number: 3, options: options)
    for key in 0..<50 as Range<UInt64> { try tree.setValue("the value of number \(key)", forKey: key) }
    for i in 0..<7 {
      _ = try heap.allocate(byteCount: 100 + i, tag: .treeRecord, owner: OwnerToken(rawValue: 3))
    }
    let crashed = image(heap)
    let region = try crashed.withUnsafeBytes {
      try PersistentRegion.inMemory(image: $0, size: crashed.count, maximumSize: crashed.count, medium: nil)
    }
    let opened = try DurableBTree<UInt64, String>.open(
      in: try PersistentHeap.open(region), at: tree.handle, options: options)
    XCTAssertEqual(opened.recovery.sweptRecords, 7)
    let report = try opened.verify()
    assertClean(report)
    XCTAssertEqual(report.unreachableRecords, 0)
    XCTAssertEqual(try opened[...].map(\.value), (0..<50).map { "the value of number \($0)" })
  }
}
