import Dispatch
import NVMRegion
import NVMalloc
import XCTest

@testable import NVMBTree

/// `first`, `last`, `lowerBound` and `upperBound` of keys that are words, which have a way of their own.
final class NearestTests: XCTestCase {
  private func check<Key: DurableKey & FixedWidthInteger & Sendable>(_ keys: Set<Key>, _ asked: [Key]) throws
  {
    for (name, options) in nodeSizes {
      let tree = try DurableBTree<Key, Int>.create(in: makeHeap(megabytes: 4), number: 1, options: options)
      for (i, key) in keys.enumerated() { try tree.setValue(i, forKey: key) }
      let sorted = keys.sorted()
      XCTAssertEqual(try tree.first?.key, sorted.first, name)
      XCTAssertEqual(try tree.last?.key, sorted.last, name)
      for key in asked {
        let (lower, upper) = (try tree.lowerBound(key), try tree.upperBound(key))
        XCTAssertEqual(lower?.key, sorted.first { $0 >= key }, "\(name), \(key)")
        XCTAssertEqual(upper?.key, sorted.first { $0 > key }, "\(name), \(key)")
        if let lower { XCTAssertEqual(lower.value, try tree[lower.key]) }
        if let upper { XCTAssertEqual(upper.value, try tree[upper.key]) }
      }
    }
  }

  func testEndsOfTheRange() throws {
    try check(Set<UInt64>(), [0, 1, .max])
    try check([0 as UInt64], [0, 1, .max - 1, .max])
    try check([.max as UInt64], [0, 1, .max - 1, .max])
    try check([.min, .max] as Set<Int>, [.min, .min + 1, -1, 0, .max - 1, .max])
    try check(Set<Int8>(.min ... .max).subtracting([0]), Array(.min ... .max))
  }

  func testRandomKeys() throws {
    var random = SeededGenerator(seed: 21)
    for bits in [3, 9, 64] as [UInt64] {
      func key() -> UInt64 { UInt64.random(in: 0...UInt64.max, using: &random) >> (64 - bits) }
      try check(Set((0..<300).map { _ in key() }), (0..<300).map { _ in key() })
    }
  }

  /// Even keys stay, odd ones come and go in leaves that split and merge.
  func testBesideWriters() throws {
    let tree = try DurableBTree<Int, Int>.create(
      in: makeHeap(megabytes: 8), number: 1, options: TreeOptions(leafCapacity: 4, innerCapacity: 3))
    for i in 0..<100 { try tree.setValue(2 * i, forKey: 2 * i) }
    let failures = Lock<[String]>([])
    DispatchQueue.concurrentPerform(iterations: 4) { thread in
      var random = SeededGenerator(seed: UInt64(thread))
      do {
        for _ in 0..<3_000 {
          let key = Int.random(in: 0..<199, using: &random)
          if thread < 2 {
            let odd = key | 1
            if Bool.random(using: &random) {
              try tree.setValue(odd, forKey: odd)
            } else {
              try tree.removeValue(forKey: odd)
            }
            continue
          }
          let (lower, upper, last) = (try tree.lowerBound(key), try tree.upperBound(key), try tree.last)
          var isRight = lower.map { $0.key == key || key & 1 == 1 && $0.key == key + 1 } ?? (key == 199)
          if key < 198 { isRight = isRight && upper.map { $0.key > key && $0.key <= (key | 1) + 1 } ?? false }
          isRight = isRight && lower?.key == lower?.value && (last?.key == 198 || last?.key == 199)
          if isRight { continue }
          failures.withLock { $0.append("\(key): \(lower as Any), \(upper as Any), \(last as Any)") }
        }
      } catch {
        failures.withLock { $0.append("\(error)") }
      }
    }
    XCTAssertEqual(failures.withLock { $0 }, [])
    XCTAssertEqual(try tree.first?.key, 0)
  }
}
