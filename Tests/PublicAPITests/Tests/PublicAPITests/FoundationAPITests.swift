import Foundation
import NVMFoundation
import XCTest

struct Person: DurableCodableValue, Equatable {
  var name: String
  var born: Date?
}

final class FoundationAPITests: XCTestCase {
  func testFoundationTypes() throws {
    try withPath { path in
      let store = try NVMStore(path: path, options: NVMStoreOptions(media: .emulated, initialSize: 4 << 20))
      let people = try store.tree("people", of: UUID.self, Person.self)
      let blobs = try store.tree("blobs", of: Date.self, Data.self)
      let scores = try store.tree("scores", of: String.self, DurableCodable<[String: Int]>.self)
      let id = UUID()
      let ada = Person(name: "Ada", born: Date(timeIntervalSince1970: -4_861_555_200))
      try people.updateValue(ada, forKey: id)
      try blobs.updateValue(Data([1, 2, 3]), forKey: .distantPast)
      try scores.updateValue(DurableCodable(["chess": 3]), forKey: "ada")
      XCTAssertEqual(try people[id], ada)
      XCTAssertEqual(try blobs.first?.value, Data([1, 2, 3]))
      XCTAssertEqual(try scores["ada"]?.value["chess"], 3)
      try store.close()
    }
  }
}
