import NVMBTree
import XCTest

@testable import NVM

/// What a transaction keeps its changes in: found by key, given out in key order.
final class KeyOrderTests: XCTestCase {
  private func order(_ keys: [[UInt8]]) -> [[UInt8]] {
    let copies = keys.map { key in
      let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: key.count, alignment: 8)
      copy.copyBytes(from: key)
      return copy
    }
    defer { for copy in copies { copy.deallocate() } }
    return KeyOrder.sorted(count: keys.count) { UnsafeRawBufferPointer(copies[$0]) }.map { keys[$0.number] }
  }

  /// Few and many, long and short, many that begin alike.
  func testOrderIsThatOfBytes() {
    var random = SeededGenerator(seed: 41)
    for count in [0, 1, 2, 50, 199, 200, 201, 3000] {
      for (letters, longest) in [(2, 12), (256, 3), (256, 40), (1, 30)] as [(Int, Int)] {
        let keys = (0..<count).map { _ in
          (0..<Int.random(in: 0...longest, using: &random)).map { _ in
            UInt8(Int.random(in: 0..<letters, using: &random))
          }
        }
        XCTAssertEqual(
          order(keys), keys.sorted { $0.lexicographicallyPrecedes($1) }, "\(count) of \(letters), \(longest)")
      }
    }
  }

  func testWordsInOrder() {
    var random = SeededGenerator(seed: 42)
    for mask in [.max, 0xFFFF, 0xFF00_0000_0000_00FF] as [UInt64] {
      let words = (0..<1000).map { _ in random.next() & mask }
      let keys = words.map { word in withUnsafeBytes(of: word.bigEndian) { [UInt8]($0) } }
      let sorted = words.sorted().map { word in withUnsafeBytes(of: word.bigEndian) { [UInt8]($0) } }
      XCTAssertEqual(order(keys), sorted)
    }
  }
}
