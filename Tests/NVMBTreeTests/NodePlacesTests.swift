import NVMRegion
import XCTest

@testable import NVMBTree

final class NodePlacesTests: XCTestCase {
  /// Extents with gaps and without, some beginning in a unit in which another one ends: each node has the place that
  /// a search finds, and what is no node has none.
  func testEveryNodeAndWhatLiesBetween() {
    let unit = 4096
    var random = SystemRandomNumberGenerator()
    for round in 0..<50 {
      var extents: [NodePool.Extent] = []
      var at = 512 * Int.random(in: 1...30, using: &random)
      for _ in 0..<(round == 0 ? 0 : Int.random(in: 1...12, using: &random)) {
        let size = unit + 512 * Int.random(in: 0...40, using: &random)
        extents.append(NodePool.Extent(payload: Offset(rawValue: UInt64(at)), byteCount: size))
        at += size + (Bool.random(using: &random) ? 0 : 512 * Int.random(in: 1...60, using: &random))
      }
      let places = NodePlaces(extents, unit: unit)
      var expected: [UInt32: Int] = [:]
      for extent in extents {
        for i in 0..<extent.count { expected[extent.first + UInt32(i)] = expected.count }
      }
      XCTAssertEqual(places.count, expected.count)
      for node in 0..<UInt32(at / 512 + 50) {
        XCTAssertEqual(
          places[node], expected[node], "node \(node) of \(extents.map { ($0.first, $0.count) })")
      }
      XCTAssertNil(places[.max])
    }
  }
}
