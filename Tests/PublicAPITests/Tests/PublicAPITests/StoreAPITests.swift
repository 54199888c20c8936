import NVM
import XCTest

/// Types of a user's own.
struct UserID: DurableWordKey, Hashable {
  var number: UInt64
  static let durableTypeName = "UserID"
  var keyHead: UInt64 { number }
  init?(keyHead: UInt64) { number = keyHead }
  init(_ number: UInt64) { self.number = number }
}

struct Position: DurableStruct, Equatable {
  var latitude: Double
  var longitude: Double
  var accuracy: Float
}

enum Color: UInt8, DurableValue, DurableKey {
  case red = 1
  case green = 2
}

/// `import NVM` brings in everything below.
final class StoreAPITests: XCTestCase {
  private let options = NVMStoreOptions(media: .emulated, initialSize: 4 << 20)

  func testTreesOfOwnTypes() throws {
    try withPath { path in
      do {
        let store = try NVMStore(path: path, options: options)
        let places = try store.tree("places", of: UserID.self, Position.self)
        let colors = try store.tree("colors", of: CompositeKey2<Color, Int32>.self, Color.self)
        let flags = try store.tree("flags", of: String.self, Bool.self)
        try store.write { tx in
          try tx[places].updateValue(Position(latitude: 1, longitude: 2, accuracy: 3), forKey: UserID(7))
          try tx[colors].updateValue(.green, forKey: .init(.red, -5))
          try tx[flags].setValue(true, forKey: "on")
        }
        try store.close()
      }
      let store = try NVMStore.open(path: path, options: options)
      XCTAssertEqual(
        try store.tree("places", of: UserID.self, Position.self)[UserID(7)],
        Position(latitude: 1, longitude: 2, accuracy: 3))
      XCTAssertEqual(
        try store.tree("colors", of: CompositeKey2<Color, Int32>.self, Color.self).first?.value, .green)
      XCTAssertEqual(try store.tree("flags", of: String.self, Bool.self)["on"], true)
      XCTAssertEqual(try store.trees.map(\.name), ["colors", "flags", "places"])
      do {
        _ = try store.tree("flags", of: String.self, Int.self)
        XCTFail("another type was accepted")
      } catch {
        XCTAssertEqual((error as? NVMError)?.code, .typeMismatch)
      }
      XCTAssert(try store.verify().isClean)
      try store.close()
    }
  }

  func testVocabularyOfTrees() throws {
    try withPath { path in
      let store = try NVMStore(path: path, options: options)
      let tree = try store.tree("t", of: Int.self, String.self)
      XCTAssertNil(try tree.updateValue("one", forKey: 1))
      XCTAssertEqual(try tree.updateValue("eins", forKey: 1), "one")
      XCTAssertFalse(try tree.insertValue("uno", forKey: 1))
      try tree.setValue("zwei", forKey: 2)
      XCTAssertEqual(try tree.updateValue(forKey: 2) { ($0 ?? "") + "!" }, "zwei!")
      XCTAssertEqual(try tree.removeValue(forKey: 2), "zwei!")
      XCTAssertEqual(try tree.withBytes(forKey: 1) { $0?.byteCount }, 4)
      try tree.append(contentsOf: (10..<1000).map { ($0, "number \($0)") })
      XCTAssertEqual(tree.count, 991)
      var sum = 0
      for (key, _) in try tree[100..<110] { sum += key }
      XCTAssertEqual(sum, 1045)
      XCTAssertEqual(try tree[...20].reversed().first { _ in true }?.key, 20)
      XCTAssertEqual(try tree.first?.key, 1)
      XCTAssertEqual(try tree.last?.key, 999)
      XCTAssertEqual(try tree.removeAll(in: 10..<20), 10)
      XCTAssertNil(try tree[15])
      XCTAssert(try tree.verify().isClean)
      XCTAssertEqual(try store.encodedTree(named: "t").count, 981)
      try store.removeTree(named: "t")
      XCTAssertEqual(store.treeNames, [])
      try store.close()
    }
  }

  func testErrorsAreSentences() throws {
    do {
      _ = try NVMStore(path: "/nonexistent/x.nvm")
      XCTFail("no error")
    } catch {
      XCTAssertEqual(error.code, .notFound)
      XCTAssertEqual(error.path, "/nonexistent/x.nvm")
      XCTAssert(
        "\(error)".contains("The directory /nonexistent does not exist. Create it first."), "\(error)")
    }
  }

  /// Handles may be shared among tasks.
  func testHandlesAreSendable() async throws {
    let (store, path) = try withPath { path in (try NVMStore(path: path, options: options), path) }
    let tree = try store.tree("t", of: Int.self, Int.self)
    try await withThrowingTaskGroup(of: Void.self) { group in
      for task in 0..<4 {
        group.addTask { for i in 0..<250 { try tree.updateValue(task, forKey: task * 1000 + i) } }
      }
      try await group.waitForAll()
    }
    XCTAssertEqual(tree.count, 1000)
    XCTAssertEqual(store.path, path)
    try store.close()
  }
}
