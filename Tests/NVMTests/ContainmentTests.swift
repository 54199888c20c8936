import NVM
import NVMBTree
import XCTest

@testable import NVMalloc

/// One damaged block header costs what is in that block, and no other tree, tree name or opening.
final class ContainmentTests: StoreTestCase {
  private func check(damaging isLarge: Bool, cleanly: Bool) throws {
    let name = "large \(isLarge), clean \(cleanly)"
    let file = path("\(isLarge)-\(cleanly)")
    var options = options
    options.initialSize = 8 << 20
    do {
      let store = try NVMStore(path: file, options: options)
      let hit = try store.tree("hit", of: Int.self, [UInt8].self)
      let text = try store.tree("text", of: String.self, String.self)
      let doomed = try store.tree("doomed", of: String.self, String.self)
      for i in 0..<4 { try hit.setValue([UInt8](repeating: 5, count: isLarge ? 200_000 : 50), forKey: i) }
      for i in 0..<300 {
        try text.setValue("a value that takes a record \(i)", forKey: "key \(i)")
        try doomed.setValue("a value that takes a record \(i)", forKey: "key \(i)")
      }
      var header: Offset?
      try store.heap.forEachBlock(owner: OwnerToken(rawValue: hit.number)) { block in
        guard block.tag == .treeRecord else { return }
        let unit = Int(block.payload.rawValue >> UInt64(store.heap.unitShift))
        header = isLarge ? store.heap.entry(unit) : block.payload + -16
      }
      try store.region.withWritable(try XCTUnwrap(header), count: 8) { $0[5] ^= 0x40 }
      try store.region.persist(try XCTUnwrap(header), count: 8)
      if cleanly { try store.close() } else { store.abandon() }
    }
    for round in 0..<3 {
      let store = try NVMStore.open(path: file, options: options)
      let text = try store.tree("text", of: String.self, String.self)
      XCTAssertEqual(text.count, 300, name)
      XCTAssertEqual(try text["key 7"], "a value that takes a record 7", name)
      try text.setValue("another value that takes a record", forKey: "key 8")
      if round == 0 { try store.removeTree(named: "doomed") }
      XCTAssertEqual(store.treeNames, ["hit", "text"], name)
      let report = try store.verify()
      XCTAssertFalse(report.isClean, name)
      if cleanly { try store.close() } else { store.abandon() }
    }
  }

  func testADamagedSmallBlock() throws {
    try check(damaging: false, cleanly: true)
    try check(damaging: false, cleanly: false)
  }
  func testADamagedLargeBlock() throws {
    try check(damaging: true, cleanly: true)
    try check(damaging: true, cleanly: false)
  }
}
