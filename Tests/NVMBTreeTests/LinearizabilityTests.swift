import Dispatch
import NVMRegion
import NVMalloc
import Synchronization
import XCTest

@testable import NVMBTree

/// Recorded histories of threads on few keys: each call takes effect at one moment, and where a crash comes in the
/// middle, what is found afterwards is the end of such an order too (durable linearizability).
final class LinearizabilityTests: XCTestCase {
  private let keys = 0..<8

  /// Calls of one thread, by key.
  private typealias Calls = [(key: Int, call: RegisterHistory.Call)]

  private final class Clock: Sendable {
    private let ticks = Atomic<UInt64>(1)
    func now() -> UInt64 { ticks.add(1, ordering: .sequentiallyConsistent).newValue }
  }

  private func runThreads(
    _ tree: DurableBTree<Int, Int>, _ clock: Clock, seed: UInt64, threads: Int, steps: Int
  ) -> Calls {
    let all = Lock(Calls())
    let keys = keys
    DispatchQueue.concurrentPerform(iterations: threads) { thread in
      var random = SeededGenerator(seed: seed &* 64 &+ UInt64(thread))
      var calls: Calls = []
      for step in 0..<steps {
        let key = Int.random(in: keys, using: &random)
        let new = thread * 1000 + step
        do {
          try Self.perform(tree, clock, keys, key, new, &random, &calls)
        } catch {
          XCTFail("\(error)")
        }
      }
      all.withLock { $0 += calls }
    }
    return all.withLock { $0 }
  }

  private static func perform(
    _ tree: DurableBTree<Int, Int>, _ clock: Clock, _ keys: Range<Int>, _ key: Int, _ new: Int,
    _ random: inout SeededGenerator, _ calls: inout Calls
  ) throws {
    let some = (0..<4).map { _ in Int.random(in: keys, using: &random) }
    let begin = clock.now()
    var seen: [(Int, RegisterHistory.Action)] = []
    switch Int.random(in: 0..<16, using: &random) {
    case 0..<4: seen = [(key, .read(try tree[key]))]
    case 4..<6: seen = [(key, .write(new: new, old: try tree.updateValue(new, forKey: key)))]
    case 6..<8: seen = [(key, .write(new: nil, old: try tree.removeValue(forKey: key)))]
    case 8: seen = [(key, .insert(new: new, done: try tree.insertValue(new, forKey: key)))]
    case 9: seen = zip(some, try tree.values(forKeys: some)).map { ($0, .read($1)) }
    case 10..<15:
      let some = Array(Set(some))
      try tree.updateValues(some.map { ($0, new) })
      seen = some.map { ($0, .put(new: new)) }
    default:
      var entries: [Int: Int] = [:]
      try tree[...].forEach { entries[$0.key] = $0.value }
      seen = keys.map { ($0, .read(entries[$0])) }
    }
    let end = clock.now()
    for (key, action) in seen {
      calls.append((key, RegisterHistory.Call(begin: begin, end: end, action: action)))
    }
  }

  private func check(_ calls: Calls, final: [Int: Int], _ context: String) {
    for key in keys {
      let history = RegisterHistory(
        calls: calls.filter { $0.key == key }.map(\.call), initial: nil, final: .some(final[key]))
      XCTAssertTrue(history.isLinearizable, "\(context), key \(key): \(history.calls)")
    }
  }

  func testWithoutCrash() throws {
    let options = TreeOptions(leafCapacity: 4, innerCapacity: 3, extentBytes: 16 << 10)
    for seed in 0..<60 as Range<UInt64> {
      let tree = try DurableBTree<Int, Int>.create(in: makeHeap(megabytes: 8), number: 1, options: options)
      let calls = runThreads(tree, Clock(), seed: seed, threads: 3, steps: 60)
      check(calls, final: Dictionary(uniqueKeysWithValues: Array(try tree[...])), "seed \(seed)")
      assertClean(try tree.verify(), "seed \(seed)")
    }
  }

  func testCrashInTheMiddle() throws {
    let options = TreeOptions(leafCapacity: 4, innerCapacity: 3, extentBytes: 16 << 10)
    var cutOff = 0
    for seed in 0..<100 as Range<UInt64> {
      let clock = Clock()
      let medium = CutMedium { clock.now() }
      let region = try PersistentRegion.inMemory(
        image: nil, size: 1 << 20, maximumSize: 1 << 20, medium: medium)
      let heap = try PersistentHeap.format(region)
      let tree = try DurableBTree<Int, Int>(in: heap, root: "tree", options: options)
      var random = SeededGenerator(seed: seed)
      medium.cut(
        region, after: Int.random(in: 1..<500, using: &random), seed: seed, keepsDirtyLines: seed % 3 != 0)
      let calls = runThreads(tree, clock, seed: seed, threads: 3, steps: 40)
      let (image, moment) = medium.takeImage()

      let known = calls.compactMap { key, call -> (key: Int, call: RegisterHistory.Call)? in
        guard call.begin < moment else { return nil }
        if call.end < moment { return (key, call) }
        // What it would have returned is not known to anybody.
        cutOff += 1
        switch call.action {
        case .read, .insert(_, false): return nil
        case .write(let new, _), .put(let new):
          return (key, RegisterHistory.Call(begin: call.begin, end: .max, action: .put(new: new)))
        case .insert(let new, true):
          return (
            key, RegisterHistory.Call(begin: call.begin, end: .max, action: .insert(new: new, done: true))
          )
        }
      }
      let reopened = try image.withUnsafeBytes {
        try PersistentRegion.inMemory(image: $0, size: $0.count, maximumSize: 1 << 20, medium: nil)
      }
      let found = try DurableBTree<Int, Int>(
        in: PersistentHeap.open(reopened), root: "tree", options: options)
      XCTAssertFalse(found.recovery.isSealed, "seed \(seed): \(found.recovery.damage)")
      check(known, final: Dictionary(uniqueKeysWithValues: Array(try found[...])), "crash, seed \(seed)")
      assertClean(try found.verify(), "seed \(seed)")
    }
    XCTAssertGreaterThan(cutOff, 30)
  }

  /// The checker itself: what it must refuse.
  func testChecker() {
    func history(
      _ calls: [(UInt64, UInt64, RegisterHistory.Action)], final: Int?? = nil
    ) -> Bool {
      RegisterHistory(
        calls: calls.map { RegisterHistory.Call(begin: $0.0, end: $0.1, action: $0.2) }, initial: nil,
        final: final
      ).isLinearizable
    }
    XCTAssertTrue(history([(1, 4, .write(new: 1, old: nil)), (2, 3, .read(nil)), (5, 6, .read(1))]))
    XCTAssertTrue(history([(1, 4, .write(new: 1, old: nil)), (2, 3, .read(1))]))
    // A read that goes back, and one that is late.
    XCTAssertFalse(history([(1, 8, .write(new: 1, old: nil)), (2, 3, .read(1)), (4, 5, .read(nil))]))
    XCTAssertFalse(history([(1, 2, .write(new: 1, old: nil)), (3, 4, .read(nil))]))
    // A lost update.
    XCTAssertFalse(history([(1, 4, .write(new: 1, old: nil)), (2, 3, .write(new: 2, old: nil))]))
    // Two that both were first.
    XCTAssertFalse(history([(1, 4, .insert(new: 1, done: true)), (2, 3, .insert(new: 2, done: true))]))
    XCTAssertTrue(history([(1, 4, .insert(new: 1, done: true)), (2, 3, .insert(new: 2, done: false))]))
    // Cut off: either way is right, until somebody has seen it.
    XCTAssertTrue(history([(1, .max, .put(new: 1))], final: .some(nil)))
    XCTAssertTrue(history([(1, .max, .put(new: 1))], final: .some(1)))
    XCTAssertTrue(history([(1, .max, .put(new: 1)), (2, 3, .read(1))], final: .some(1)))
    XCTAssertFalse(history([(1, .max, .put(new: 1)), (2, 3, .read(1))], final: .some(nil)))
    // Acknowledged and gone.
    XCTAssertFalse(history([(1, 2, .write(new: 1, old: nil))], final: .some(nil)))
  }
}
