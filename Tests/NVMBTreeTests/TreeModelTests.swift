import NVMRegion
import NVMalloc
import XCTest

@testable import NVMBTree

/// The tree against a dictionary and a sorted array, by seeded random operations.
final class TreeModelTests: XCTestCase {
  private var operations: Int {
    ProcessInfo.processInfo.environment["NVM_MODEL_OPERATIONS"].flatMap(Int.init) ?? 150_000
  }

  private func runModel<Key: DurableKey & Hashable, Value: DurableValue & Equatable>(
    _ name: String, _ options: TreeOptions, seed: UInt64, operations: Int,
    key: (inout SeededGenerator) -> Key, value: (inout SeededGenerator) -> Value
  ) throws {
    let context = "\(name), seed \(seed)"
    var random = SeededGenerator(seed: seed)
    let heap = try makeHeap()
    let tree = try DurableBTree<Key, Value>.create(in: heap, number: 1, options: options)
    var model: [Key: Value] = [:]
    func sortedKeys() -> [Key] { model.keys.sorted { $0.compareKey(to: $1) < 0 } }
    for step in 0..<operations {
      // Phases of growth and of shrinking.
      let growing = step / (operations / 6 + 1) % 2 == 0
      let k = key(&random)
      switch Int.random(in: 0..<100, using: &random) {
      case 0..<(growing ? 50 : 15):
        let v = value(&random)
        XCTAssertEqual(try tree.updateValue(v, forKey: k), model.updateValue(v, forKey: k), context)
      case 50..<55:
        let v = value(&random)
        let inserted = try tree.insertValue(v, forKey: k)
        XCTAssertEqual(inserted, model[k] == nil, context)
        if inserted { model[k] = v }
      case 55..<60:
        let v = value(&random)
        let new = try tree.updateValue(forKey: k) { $0 == nil ? v : nil }
        model[k] = model[k] == nil ? v : nil
        XCTAssertEqual(new, model[k], context)
      case 15..<50, 60..<80:
        let victim = Bool.random(using: &random) ? model.keys.randomElement(using: &random) ?? k : k
        XCTAssertEqual(try tree.removeValue(forKey: victim), model.removeValue(forKey: victim), context)
      case 99 where Int.random(in: 0..<40, using: &random) == 0:
        let keys = sortedKeys()
        guard keys.count > 4 else { continue }
        let a = Int.random(in: 0..<keys.count, using: &random)
        let b = min(keys.count - 1, a + Int.random(in: 0..<30, using: &random))
        XCTAssertEqual(try tree.removeAll(from: keys[a], to: keys[b]), b - a, context)
        for key in keys[a..<b] { model[key] = nil }
      case 98 where Int.random(in: 0..<40, using: &random) == 0:
        let keys = sortedKeys()
        let a = keys.randomElement(using: &random) ?? k
        let b = key(&random)
        let expected = keys.filter { $0.compareKey(to: a) >= 0 && $0.compareKey(to: b) < 0 }
        let range = try tree.range(from: a, to: b)
        XCTAssertEqual(range.map(\.key), expected, context)
        XCTAssertEqual(range.reversed().map(\.key), expected.reversed(), context)
        XCTAssertNil(range.failure)
      default:
        XCTAssertEqual(try tree.value(forKey: k), model[k], context)
      }
      if step % (operations / 12 + 1) == 0 {
        assertClean(try tree.verify(), context)
        XCTAssertEqual(tree.count, model.count, context)
      }
    }
    let keys = sortedKeys()
    XCTAssertEqual(try tree[...].map(\.key), keys, context)
    XCTAssertEqual(try tree[...].map(\.value), keys.map { model[$0]! }, context)
    XCTAssertEqual(try tree.first?.key, keys.first, context)
    XCTAssertEqual(try tree.last?.key, keys.last, context)
    assertClean(try tree.verify(), context)

    // The same again from the medium.
    tree.close()
    let again = try DurableBTree<Key, Value>.open(in: heap, at: tree.handle, options: options)
    XCTAssertFalse(again.recovery.isSealed, again.recovery.firstDamage)
    assertClean(try again.verify(), context)
    XCTAssertEqual(again.count, model.count, context)
    XCTAssertEqual(try again[...].reversed().map(\.key), keys.reversed(), context)
    for key in keys { XCTAssertEqual(try again[key], model[key], context) }

    // Emptied, it gives everything back but its first extent.
    for key in keys.shuffled(using: &random) { XCTAssertNotNil(try again.removeValue(forKey: key), context) }
    XCTAssertEqual(again.count, 0)
    again.trim()
    assertClean(try again.verify(), context)
    XCTAssertEqual(again.statistics.leaves, 1, context)
    XCTAssertEqual(again.statistics.height, 0, context)
  }

  func testIntegers() throws {
    for (name, options) in nodeSizes {
      for seed in 1...2 as ClosedRange<UInt64> {
        try runModel(
          name, options, seed: seed, operations: operations,
          key: { Int.random(in: -3000...3000, using: &$0) },
          value: { Int.random(in: .min ... .max, using: &$0) })
      }
    }
  }

  func testStringsToIntegers() throws {
    for (name, options) in nodeSizes {
      try runModel(
        name, options, seed: 11, operations: operations / 4, key: { Self.string(&$0) },
        value: { UInt32.random(in: 0 ... .max, using: &$0) })
    }
  }

  func testStringsToStrings() throws {
    for (name, options) in nodeSizes {
      try runModel(
        name, options, seed: 12, operations: operations / 4, key: { Self.string(&$0) },
        value: { Self.string(&$0) })
    }
  }

  /// Every inner node has a prefix, of any length: below, at and above what it can use; keys end within it, differ
  /// only far behind it, or in zeros at their end.
  func testLongCommonPrefixes() throws {
    for (name, options) in nodeSizes {
      for (length, seed) in [(7, 21), (8, 22), (15, 23), (40, 24), (119, 25), (140, 26)] as [(Int, UInt64)] {
        let prefix = (0..<length).map { UInt8($0 % 251) }
        try runModel(
          "\(name), prefix \(length)", options, seed: seed, operations: operations / 40,
          key: { random in
            let n = Int.random(in: 0..<600, using: &random)
            let digits = Array("\(n)".utf8)
            switch n % 6 {
            case 0: return Array(prefix.prefix(length - n % 3)) + digits.prefix(n % 2)
            case 1: return prefix + digits
            case 2: return prefix + [1] + [UInt8](repeating: 7, count: 9) + digits
            case 3: return prefix + [2] + [UInt8](repeating: 0, count: n % 12)
            case 4: return prefix + [UInt8](repeating: 0xFF, count: n % 12) + digits.suffix(1)
            default: return prefix + [3, 4, 5] + prefix + digits
            }
          }, value: { UInt32.random(in: 0 ... .max, using: &$0) })
      }
    }
  }

  func testIntegersToBytes() throws {
    for (name, options) in nodeSizes {
      try runModel(
        name, options, seed: 13, operations: operations / 4, key: { UInt16.random(in: 0...2000, using: &$0) },
        value: { random in
          [UInt8](
            repeating: UInt8.random(in: 0...9, using: &random), count: Int.random(in: 0...300, using: &random)
          )
        })
    }
  }

  /// Short and long, with long common prefixes.
  static func string(_ random: inout SeededGenerator) -> String {
    let n = Int.random(in: 0..<700, using: &random)
    switch n % 4 {
    case 0: return String(n)
    case 1: return "https://example.org/a/rather/long/common/prefix/\(n)"
    case 2: return "12345678\(n)"
    default: return "abcdefg" + String(repeating: "\0", count: n % 5) + "\(n / 100)"
    }
  }
}
