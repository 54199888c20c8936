import Foundation
import NVMBTree
import XCTest

@testable import NVM
@testable import NVMalloc

/// What is left of a store whose own structure is damaged: every tree, with what is known of it.
final class StoreSalvageTests: StoreTestCase {
  private static let longName = "a name that stands in a record"

  /// A closed store with three trees, one of which has a name in a record, and one removed.
  private func makeStore() throws -> (numbers: [String: UInt32], catalogue: [BlockInfo], roots: [Offset]) {
    let store = try NVMStore(path: path(), options: options)
    let main = try store.tree("main", of: String.self, String.self)
    let squares = try store.tree("squares", of: Int.self, Int.self)
    let long = try store.tree(Self.longName, of: UInt32.self, [UInt8].self)
    let removed = try store.tree("removed", of: String.self, String.self)
    for i in 0..<300 {
      try main.setValue("a value that takes a record \(i)", forKey: "key \(i)")
      try squares.setValue(i * i, forKey: i)
      try long.setValue([UInt8(i & 0xFF)], forKey: UInt32(i))
      try removed.setValue("gone", forKey: "key \(i)")
    }
    try store.removeTree(named: "removed")
    var blocks: [BlockInfo] = []
    try store.heap.forEachBlock(owner: OwnerToken(rawValue: CatalogueEntry.treeNumber)) { blocks.append($0) }
    let numbers = try Dictionary(uniqueKeysWithValues: store.trees.map { ($0.name, $0.number) })
    var roots: [Offset] = []
    for number in 1...5 as ClosedRange<UInt32> {
      try store.heap.forEachBlock(tag: .treeRoot, owner: OwnerToken(rawValue: number)) {
        roots.append($0.payload)
      }
    }
    try store.close()
    return (numbers, blocks, roots)
  }

  private func damage(_ change: (inout Data) -> Void) throws {
    let url = URL(fileURLWithPath: path())
    var bytes = try Data(contentsOf: url)
    change(&bytes)
    try bytes.write(to: url)
  }

  private func entries(_ salvage: StoreSalvage, _ name: String) throws -> [[UInt8]: [UInt8]] {
    var entries: [[UInt8]: [UInt8]] = [:]
    try salvage.tree(named: name).salvage(onDamage: { _ in }) { key, value in
      entries[key] = value
      return true
    }
    return entries
  }

  /// All three trees, under the names given, with all their entries and types.
  private func assertAll(
    _ salvage: StoreSalvage, main: String = "main", squares: String = "squares", long: String = longName,
    line: UInt = #line
  ) throws {
    XCTAssertEqual(salvage.trees.map(\.name), [main, squares, long].sorted(), line: line)
    let texts = try entries(salvage, main)
    XCTAssertEqual(texts.count, 300, line: line)
    for i in 0..<300 {
      let key = "key \(i)".withKeyBytes { [UInt8]($0) }
      XCTAssertEqual(texts[key], Array("a value that takes a record \(i)".utf8), line: line)
    }
    let numbers = try entries(salvage, squares)
    XCTAssertEqual(numbers.count, 300, line: line)
    for i in 0..<300 {
      let value = numbers[i.withKeyBytes { [UInt8]($0) }]
      XCTAssertEqual(value?.withUnsafeBytes { $0.load(as: Int.self) }, i * i, line: line)
    }
    XCTAssertEqual(try entries(salvage, long).count, 300, line: line)
    for tree in salvage.trees {
      let types = [main: "String", squares: "Int64", long: "UInt32"]
      XCTAssertEqual(tree.keyTypeName, types[tree.name], line: line)
    }
  }

  func testAWholeStore() throws {
    _ = try makeStore()
    let salvage = try StoreSalvage(path: path(), options: options)
    try assertAll(salvage)
    XCTAssertEqual(salvage.damage, [])
    XCTAssertThrowsError(try salvage.tree(named: "other"))
    salvage.close()
    try NVMStore.open(path: path(), options: options).close()
  }

  func testTheCataloguesHeader() throws {
    let header = try XCTUnwrap(makeStore().catalogue.first { $0.tag == .treeRoot })
    try damage { $0[header.payload.bytes + 17] ^= 4 }
    assertThrows(.corrupt, mentions: "salvage") { try NVMStore.open(path: path(), options: options) }
    let salvage = try StoreSalvage(path: path(), options: options)
    try assertAll(salvage)
    XCTAssertEqual(salvage.damage.count, 1)
    XCTAssertFalse(salvage.trees.contains { $0.isNameLost })
  }

  func testTheRootOfTheCatalogue() throws {
    _ = try makeStore()
    try damage { bytes in
      let name = bytes.range(of: Data(CatalogueEntry.rootName.utf8))
      for i in name ?? 0..<0 { bytes[i] ^= 0x20 }
    }
    assertThrows(.corrupt) { try NVMStore.open(path: path(), options: options) }
    try assertAll(StoreSalvage(path: path(), options: options))
  }

  /// What records hold is found, and names that stand in the leaf are lost.
  func testTheLeafOfTheCatalogue() throws {
    let (numbers, blocks, _) = try makeStore()
    let nodes = try XCTUnwrap(blocks.first { $0.tag == .treeNodes }).payload.bytes
    try damage { bytes in
      for i in nodes..<nodes + 4096 { bytes[i] = 0xA5 }
    }
    assertThrows(.corrupt, mentions: "salvage") { try NVMStore.open(path: path(), options: options) }
    let salvage = try StoreSalvage(path: path(), options: options)
    let main = "tree \(numbers["main"]!)"
    let squares = "tree \(numbers["squares"]!)"
    try assertAll(salvage, main: main, squares: squares)
    XCTAssertEqual(salvage.trees.filter(\.isNameLost).map(\.name), [main, squares].sorted())
    XCTAssertEqual(salvage.damage.count, 3)
  }

  /// A name that is made up may be another tree's.
  func testNamesStayDifferent() throws {
    var options = options
    options.treeOptions = TreeOptions(leafCapacity: 28, innerCapacity: 15, extentBytes: 4096)
    let store = try NVMStore(path: path(), options: options)
    for i in 2...101 { XCTAssertEqual(try store.tree("t\(i)", of: Int.self, Int.self).number, UInt32(i)) }
    _ = try store.tree("tree 101", of: Int.self, Int.self)
    var nodes: Offset?
    try store.heap.forEachBlock(tag: .treeNodes, owner: OwnerToken(rawValue: CatalogueEntry.treeNumber)) {
      nodes = $0.payload
    }
    try store.close()
    let at = try XCTUnwrap(nodes).bytes
    // All leaves of the catalogue.
    try damage { bytes in
      for leaf in stride(from: at, to: at + 4096, by: 512) { bytes[leaf + 64] ^= 0xFF }
    }
    let salvage = try StoreSalvage(path: path(), options: options)
    XCTAssertEqual(
      Set(salvage.trees.map(\.name)), Set((2...101).map { "tree \($0)" } + ["tree 101?"]))
    XCTAssertEqual(salvage.trees.filter { !$0.isNameLost }.map(\.name), ["tree 101"])
  }

  /// Only the trees' own headers are left.
  func testTheRecordsOfTheCatalogue() throws {
    let (numbers, blocks, _) = try makeStore()
    try damage { bytes in
      for block in blocks where block.tag == .treeRecord { bytes[block.payload.bytes + 20] ^= 1 }
    }
    assertThrows(.corrupt) { try NVMStore.open(path: path(), options: options) }
    let salvage = try StoreSalvage(path: path(), options: options)
    func name(_ tree: String) -> String { "tree \(numbers[tree]!)" }
    try assertAll(salvage, main: name("main"), squares: name("squares"), long: name(Self.longName))
    XCTAssertEqual(
      salvage.trees.map(\.valueTypeName).sorted(), ["Int64", "String", "[UInt8]"])
  }

  /// The header of each tree, with the store otherwise whole and with the catalogue's gone too.
  func testTheHeadersOfTrees() throws {
    for isCatalogueWhole in [true, false] {
      let roots = try makeStore().roots
      XCTAssertEqual(roots.count, 4)
      try damage { bytes in
        for root in isCatalogueWhole ? roots[1...] : roots[...] { bytes[root.bytes + 41] ^= 8 }
      }
      let salvage = try StoreSalvage(path: path(), options: options)
      try assertAll(salvage)
      // For salvage only.
      let tree = try salvage.tree(named: "main")
      assertThrows(.corrupt) { try tree.value(forKey: [1]) }
      XCTAssertThrowsError(try tree.scan { _, _ in true })
      XCTAssertFalse(try tree.verify().problems.isEmpty)
      salvage.close()
      try FileManager.default.removeItem(atPath: path())
    }
  }

  func testAPendingTransactionIsNamed() throws {
    let store = try NVMStore(path: path(), options: options)
    let tree = try store.tree("main", of: Int.self, Int.self)
    try tree.setValue(1, forKey: 1)
    let region = store.region
    try store.heap.place(byteCount: 64, tag: .storeLog, into: store.logLink) { block in
      region.store(0x0707_0707_0707_0707, at: block)
    }
    store.abandon()
    assertThrows(.corrupt, mentions: "log", "salvage") { try NVMStore.open(path: path(), options: options) }
    let salvage = try StoreSalvage(path: path(), options: options)
    XCTAssertEqual(salvage.damage.count, 1)
    XCTAssertEqual(try entries(salvage, "main").count, 1)
  }

  func testWhatIsNoStore() throws {
    assertThrows(.notFound) { try StoreSalvage(path: path(), options: options) }
    let region = try PersistentRegion.create(
      at: path(), size: 1 << 20, options: RegionOptions(media: .emulated))
    let heap = try PersistentHeap.format(region)
    heap.close()
    try region.close()
    assertThrows(.notFound, mentions: "Nothing of a store") {
      try StoreSalvage(path: path(), options: options)
    }
    // An empty store is a whole one.
    try FileManager.default.removeItem(atPath: path())
    try NVMStore(path: path(), options: options).close()
    XCTAssertEqual(try StoreSalvage(path: path(), options: options).trees, [])
  }
}
