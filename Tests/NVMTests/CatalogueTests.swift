import Foundation
import NVM
import NVMBTree
import XCTest

/// Named, typed trees: made, found again, told apart, removed.
final class CatalogueTests: StoreTestCase {
  func testTreesAreFoundAgainAfterClose() throws {
    do {
      let store = try NVMStore(path: path(), options: options)
      XCTAssert(store.recovery.isNew)
      let ages = try store.tree("ages", of: String.self, Int.self)
      let names = try store.tree("names", of: UInt32.self, String.self)
      try ages.updateValue(41, forKey: "ada")
      try names.updateValue("Ada Lovelace, Countess", forKey: 7)
      try assertClean(store)
      try store.close()
    }
    let store = try NVMStore.open(path: path(), options: options)
    XCTAssert(store.recovery.wasCleanlyClosed)
    XCTAssertFalse(store.recovery.isNew)
    XCTAssertEqual(store.treeNames, ["ages", "names"])
    XCTAssertEqual(try store.tree("ages", of: String.self, Int.self)["ada"], 41)
    XCTAssertEqual(try store.tree("names", of: UInt32.self, String.self)[7], "Ada Lovelace, Countess")
    let trees = try store.trees
    XCTAssertEqual(trees.map(\.keyTypeName), ["String", "UInt32"])
    XCTAssertEqual(trees.map(\.valueTypeName), ["Int64", "String"])
    XCTAssertEqual(trees.map(\.count), [1, 1])
    try assertClean(store)
  }

  func testTreesAreFoundAgainAfterACrash() throws {
    for round in 0..<5 {
      let store = try NVMStore(path: path(), options: options)
      XCTAssertEqual(store.recovery.wasCleanlyClosed, round == 0)
      let tree = try store.tree("t", of: Int.self, String.self)
      XCTAssertEqual(tree.count, 50 * round)
      for i in 0..<50 { try tree.updateValue("value \(i) of round \(round)", forKey: 100 * round + i) }
      store.abandon()
    }
    let store = try NVMStore(path: path(), options: options)
    XCTAssertEqual(try store.tree("t", of: Int.self, String.self)[203], "value 3 of round 2")
    try assertClean(store)
  }

  /// An unclean shutdown leaves its mark until every tree is mended: closing properly sees to it.
  func testClosingMendsTreesThatNobodyOpened() throws {
    let store = try NVMStore(path: path(), options: options)
    let tree = try store.tree("long", of: String.self, String.self)
    for i in 0..<200 { try tree.updateValue("a value in a record \(i)", forKey: "a key in a record \(i)") }
    for i in 0..<100 { try tree.removeValue(forKey: "a key in a record \(i)") }
    store.abandon()
    try NVMStore.open(path: path(), options: options).close()
    let again = try NVMStore.open(path: path(), options: options)
    XCTAssert(again.recovery.wasCleanlyClosed)
    XCTAssertEqual(try again.tree("long", of: String.self, String.self).count, 100)
    try assertClean(again)
  }

  /// What a reader still holds at close cannot be freed: the next opening does it, and so must not take the file for
  /// properly closed.
  func testClosingUnderAReaderLosesNoSpace() throws {
    let store = try NVMStore(path: path(), options: options)
    let tree = try store.tree("t", of: Int.self, String.self)
    try tree.updateValue("a value in a record", forKey: 1)
    let length = try tree.withBytes(forKey: 1) { (bytes: RawSpan?) throws(NVMError) -> Int in
      try tree.updateValue("another value in a record", forKey: 1)
      try store.close()
      return bytes?.byteCount ?? 0
    }
    XCTAssertEqual(length, 19)
    let again = try NVMStore.open(path: path(), options: options)
    XCTAssertFalse(again.recovery.wasCleanlyClosed)
    XCTAssertEqual(try again.tree("t", of: Int.self, String.self)[1], "another value in a record")
    try assertClean(again)
  }

  func testTheSameNameGivesTheSameHandle() throws {
    let store = try NVMStore(path: path(), options: options)
    let a = try store.tree("t", of: Int.self, Int.self)
    XCTAssert(a === (try store.tree("t", of: Int.self, Int.self)))
    // Recorded alike: two handles to one tree.
    let b = try store.tree("t", of: Int64.self, Int.self)
    try b.updateValue(1, forKey: 1)
    XCTAssertEqual(try a[1], 1)
    let fromManyThreads = try store.tree("u", of: Int.self, Int.self)
    DispatchQueue.concurrentPerform(iterations: 8) { _ in
      XCTAssert(fromManyThreads === (try? store.tree("u", of: Int.self, Int.self)))
    }
  }

  func testOtherTypesAreRefused() throws {
    let store = try NVMStore(path: path(), options: options)
    _ = try store.tree("ages", of: String.self, Int.self)
    assertThrows(.typeMismatch, mentions: path(), "\"ages\"", "String → Int64", "String → String") {
      try store.tree("ages", of: String.self, String.self)
    }
    assertThrows(.typeMismatch) { try store.tree("ages", of: Int.self, Int.self) }
    try store.close()
    let again = try NVMStore.open(path: path(), options: options)
    assertThrows(.typeMismatch) { try again.tree("ages", of: String.self, UInt64.self) }
    XCTAssertEqual(try again.tree("ages", of: String.self, Int64.self).count, 0)
  }

  func testNamesAreChecked() throws {
    let store = try NVMStore(path: path(), options: options)
    assertThrows(.invalidArgument, mentions: "1 to 255 bytes") { try store.tree("", of: Int.self, Int.self) }
    assertThrows(.invalidArgument) {
      try store.tree(String(repeating: "x", count: 256), of: Int.self, Int.self)
    }
    let long = String(repeating: "ä", count: 127)
    try store.tree(long, of: Int.self, Int.self).updateValue(1, forKey: 1)
    XCTAssertEqual(store.treeNames, [long])
    assertThrows(.notFound, mentions: "\"nosuch\"") { try store.encodedTree(named: "nosuch") }
  }

  func testRemovalFreesEverything() throws {
    let store = try NVMStore(path: path(), options: options)
    let keep = try store.tree("keep", of: Int.self, Int.self)
    try keep.updateValue(1, forKey: 1)
    try assertClean(store)
    let before = store.statistics.heap.liveBlocks
    for round in 0..<4 {
      let tree = try store.tree("t", of: String.self, String.self)
      XCTAssertEqual(tree.count, 0)
      for i in 0..<300 {
        try tree.updateValue("a longer value \(i)", forKey: "a longer key \(i), round \(round)")
      }
      try store.removeTree(named: "t")
      XCTAssertFalse(store.hasTree(named: "t"))
      assertThrows(.closed) { try tree.updateValue("x", forKey: "y") }
      assertThrows(.closed) { try tree["y"] }
      assertThrows(.notFound) { try store.removeTree(named: "t") }
      try assertClean(store)
    }
    XCTAssertEqual(store.statistics.heap.liveBlocks, before)
    XCTAssertEqual(try keep[1], 1)
  }

  /// A tree that an application keeps by a root of the store's heap has a number that no tree of the store ever has: who
  /// makes a tree frees all blocks of its number first.
  func testTreesByRootsAreApart() throws {
    let store = try NVMStore(path: path(), options: options)
    let mine = try store.tree("mine", of: Int.self, String.self)
    try mine.setValue("of the store, and long", forKey: 1)
    var own: [DurableBTree<Int, String>] = []
    for i in 0..<30 {
      own.append(try DurableBTree(in: store.heap, root: "own \(i)"))
      try own[i].setValue("of the root \(i), and long", forKey: i)
      XCTAssertGreaterThanOrEqual(own[i].number, 1 << 19)
    }
    XCTAssertEqual(Set(own.map(\.number)).count, 30)
    XCTAssertLessThan(mine.number, 1 << 19)
    try assertClean(store)
    for tree in own { tree.close() }
    try store.close()
    let again = try NVMStore.open(path: path(), options: options)
    XCTAssertEqual(try again.tree("mine", of: Int.self, String.self)[1], "of the store, and long")
    for i in 0..<30 {
      let tree = try DurableBTree<Int, String>(in: again.heap, root: "own \(i)")
      XCTAssertEqual(try tree[i], "of the root \(i), and long")
    }
    try assertClean(again)
  }

  func testManyTrees() throws {
    var options = options
    options.treeOptions = TreeOptions(leafCapacity: 4, innerCapacity: 4, extentBytes: 16 << 10)
    let store = try NVMStore(path: path(), options: options)
    for i in 0..<300 {
      let tree = try store.tree("tree \(i)", of: Int.self, Int.self)
      for k in 0..<10 { try tree.updateValue(k * i, forKey: k) }
    }
    for i in stride(from: 0, to: 300, by: 3) { try store.removeTree(named: "tree \(i)") }
    store.abandon()
    let again = try NVMStore.open(path: path(), options: options)
    XCTAssertEqual(again.treeNames.count, 200)
    for i in 0..<300 where i % 3 != 0 {
      let tree = try again.tree("tree \(i)", of: Int.self, Int.self)
      XCTAssertEqual(tree.count, 10)
      XCTAssertEqual(try tree[3], 3 * i)
    }
    try assertClean(again)
  }

  func testAfterCloseEverythingThrows() throws {
    let store = try NVMStore(path: path(), options: options)
    let tree = try store.tree("t", of: Int.self, Int.self)
    try store.close()
    try store.close()
    assertThrows(.closed) { try tree.updateValue(1, forKey: 1) }
    assertThrows(.closed) { try tree[1] }
    assertThrows(.closed) { try store.tree("t", of: Int.self, Int.self) }
    assertThrows(.closed) { try store.write { _ in } }
    assertThrows(.closed) { try store.verify() }
    assertThrows(.closed) { try store.removeTree(named: "t") }
    assertThrows(.closed) { try store.trees }
  }

  func testReadOnly() throws {
    do {
      let store = try NVMStore(path: path(), options: options)
      try store.tree("t", of: Int.self, String.self).updateValue("one", forKey: 1)
      store.abandon()
    }
    var readOnly = options
    readOnly.access = .readOnly
    let before = try Data(contentsOf: URL(fileURLWithPath: path()))
    let a = try NVMStore.open(path: path(), options: readOnly)
    let b = try NVMStore.open(path: path(), options: readOnly)
    let tree = try a.tree("t", of: Int.self, String.self)
    XCTAssertEqual(try tree[1], "one")
    XCTAssertEqual(try b.tree("t", of: Int.self, String.self)[1], "one")
    assertThrows(.readOnly) { try tree.updateValue("two", forKey: 2) }
    assertThrows(.readOnly) { try a.tree("u", of: Int.self, Int.self) }
    assertThrows(.readOnly) { try a.removeTree(named: "t") }
    assertThrows(.readOnly) { try a.write { _ in } }
    XCTAssert(try a.verify().isClean)
    assertThrows(.locked, mentions: path(), "in use") { try NVMStore(path: path(), options: options) }
    try a.close()
    try b.close()
    XCTAssertEqual(try Data(contentsOf: URL(fileURLWithPath: path())), before)
  }

  func testEncodedTreesAreTheSameTrees() throws {
    let store = try NVMStore(path: path(), options: options)
    let typed = try store.tree("t", of: Int32.self, String.self)
    let raw = try store.encodedTree(named: "t")
    XCTAssertEqual([raw.keyTypeName, raw.valueTypeName], ["Int32", "String"])
    for i in Int32(-3)...3 { try typed.updateValue("number \(i)", forKey: i) }
    var found: [Int32] = []
    try raw.scan { key, value in
      let number = key.withUnsafeBytes { Int32(keyBytes: $0) }
      XCTAssertEqual(value, Array("number \(number ?? 99)".utf8))
      if let number { found.append(number) }
      return true
    }
    XCTAssertEqual(found, Array(-3...3))
    let key = Int32(2).withKeyBytes { [UInt8]($0) }
    XCTAssertFalse(try raw.setValue(Array("two".utf8), forKey: key))
    XCTAssertEqual(try typed[2], "two")
    XCTAssert(try raw.removeValue(forKey: key))
    XCTAssertNil(try typed[2])
    assertThrows(.invalidArgument) { try raw.value(forKey: [1, 2, 3]) }
    var backward = 0
    try raw.scan(from: Int32(0).withKeyBytes { [UInt8]($0) }, reverse: true) { _, _ in
      backward += 1
      return backward < 2
    }
    XCTAssertEqual(backward, 2)
  }

  /// A bulk load whose tree is removed in its middle ends with `.closed`, and what it had prepared, which went with the
  /// tree, is not given back a second time: by then it is another tree's.
  func testATreeRemovedInTheMiddleOfALoad() throws {
    let store = try NVMStore(path: path(), options: options)
    for way in 0..<2 {
      let doomed = try store.tree("doomed", of: Int.self, String.self)
      let other = try store.tree("other \(way)", of: Int.self, String.self)
      let text = String(repeating: "a value that takes a record ", count: 3)
      func intervene() {
        XCTAssertNoThrow(try store.removeTree(named: "doomed"))
        for n in 0..<500 { XCTAssertNoThrow(try other.setValue("\(n) \(text)", forKey: n)) }
      }
      let entries = (0..<200).lazy.map { (i: Int) -> (Int, String) in
        if i == 20 { intervene() }
        return (i, text)
      }
      assertThrows(.closed) {
        if way == 0 { try doomed.append(contentsOf: entries) } else { _ = try doomed.updateValues(entries) }
      }
      for n in 500..<1000 { try other.setValue("\(n) \(text)", forKey: n) }
      for n in 0..<1000 { XCTAssertEqual(try other[n], "\(n) \(text)") }
      try assertClean(store)
    }
  }

  /// A handle to a removed tree says so, whatever is asked of it.
  func testARemovedTreeIsNotVerified() throws {
    let store = try NVMStore(path: path(), options: options)
    let tree = try store.tree("tree", of: Int.self, String.self)
    let encoded = try store.encodedTree(named: "tree")
    for i in 0..<100 { try tree.setValue("\(i) and something more", forKey: i) }
    try store.removeTree(named: "tree")
    let other = try store.tree("other", of: Int.self, String.self)
    for i in 0..<100 { try other.setValue("\(i) and something more", forKey: i) }
    assertThrows(.closed) { try tree.verify() }
    assertThrows(.closed) { try encoded.verify() }
    assertThrows(.closed) { try tree[1] }
    assertThrows(.closed) { try tree[...] }
    assertThrows(.closed) { try tree.makeCursor().next() }
  }

  /// Swift takes names that differ in their normalization only for equal: they name one tree, also when it is removed.
  func testNamesInAnotherNormalization() throws {
    let store = try NVMStore(path: path(), options: options)
    let (composed, decomposed) = ("caf\u{E9}", "cafe\u{301}")
    let tree = try store.tree(composed, of: Int.self, String.self)
    try tree.setValue("a value that takes a record", forKey: 1)
    XCTAssert(try store.tree(decomposed, of: Int.self, String.self) === tree)
    try store.removeTree(named: decomposed)
    XCTAssertEqual(store.treeNames, [])
    try store.close()
    let again = try NVMStore.open(path: path(), options: options)
    XCTAssertEqual(again.treeNames, [])
    try assertClean(again)
  }
}
