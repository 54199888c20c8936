import Dispatch
import NVMRegion
import NVMalloc
import Synchronization
import XCTest

@testable import NVMBTree

/// Readers, writers and scans at once. Run under the thread sanitizer as well.
final class TreeConcurrencyTests: XCTestCase {
  private var rounds: Int {
    ProcessInfo.processInfo.environment["NVM_STRESS_ROUNDS"].flatMap(Int.init) ?? 1
  }

  private func onThreads(_ count: Int, _ body: @escaping @Sendable (Int) throws -> Void) {
    let failures = Mutex<[String]>([])
    DispatchQueue.concurrentPerform(iterations: count) { i in
      do { try body(i) } catch { failures.withLock { $0.append("\(error)") } }
    }
    XCTAssertEqual(failures.withLock { $0 }, [])
  }

  /// Each writer owns the keys of its residue class and checks them; keys of one class never change and must be
  /// seen by every scan, once and in order.
  func testWritersReadersAndScans() throws {
    for round in 0..<rounds {
      for (name, options) in nodeSizes {
        // Every second time on a journal, where readers wait and writers do not.
        let heap =
          try (round + name.count) % 2 == 0
          ? makeHeap(megabytes: 32) : MemoryFile(size: 34 << 20).makeHeap(megabytes: 32)
        let tree = try DurableBTree<Int, Int>.create(in: heap, number: 3, options: options)
        let span = 3000
        for key in stride(from: 0, to: span, by: 4) { try tree.setValue(-key, forKey: key) }
        let stable = Array(stride(from: 0, to: span, by: 4))
        onThreads(5) { thread in
          var random = SeededGenerator(seed: UInt64(round * 16 + thread))
          switch thread {
          case 0, 1, 2:
            var mine: [Int: Int] = [:]
            for step in 0..<6000 {
              let key = Int.random(in: 0..<span / 4, using: &random) * 4 + thread + 1
              switch Int.random(in: 0..<10, using: &random) {
              case 0..<5:
                mine[key] = step
                try tree.setValue(step, forKey: key)
              case 5..<9:
                let removed = try tree.removeValue(forKey: key)
                guard removed == mine.removeValue(forKey: key) else { throw Mismatch(name) }
              default:
                guard try tree[key] == mine[key] else { throw Mismatch(name) }
              }
            }
            for (key, value) in mine where try tree[key] != value { throw Mismatch(name) }
          case 3:
            for i in 0..<60 {
              let range = try tree[...]
              let seen = (i % 2 == 0 ? Array(range) : Array(range.reversed()).reversed()).map { $0.key }
              guard seen.filter({ $0 % 4 == 0 }) == stable else {
                throw Mismatch("\(name): a stable key was lost")
              }
              guard zip(seen, seen.dropFirst()).allSatisfy({ $0 < $1 }) else {
                throw Mismatch("\(name): order")
              }
            }
          default:
            for _ in 0..<20000 {
              let key = Int.random(in: 0..<span / 4, using: &random) * 4
              guard try tree[key] == -key else { throw Mismatch(name) }
            }
          }
        }
        assertClean(try tree.verify(), name)
        let count = tree.count
        tree.close()
        let again = try DurableBTree<Int, Int>.open(in: heap, at: tree.handle, options: options)
        XCTAssertEqual(again.count, count)
        assertClean(try again.verify(), name)
      }
    }
  }

  /// Records are replaced while they are read: a reader sees one value whole, never a mixture or a reused block.
  func testRecordsUnderReplacement() throws {
    let heap = try makeHeap(megabytes: 32)
    let tree = try DurableBTree<String, String>.create(in: heap, number: 3, options: nodeSizes[0].1)
    let keys = (0..<40).map { "a key that is long enough for a record \($0)" }
    @Sendable func value(_ i: Int) -> String { String(repeating: "\(i % 10)", count: 20 + i % 90) }
    for (i, key) in keys.enumerated() { try tree.setValue(value(i), forKey: key) }
    onThreads(4) { thread in
      var random = SeededGenerator(seed: UInt64(thread))
      for step in 0..<5000 {
        let key = keys.randomElement(using: &random)!
        if thread < 2 {
          if step % 7 == 0 {
            try tree.removeValue(forKey: key)
          } else {
            try tree.setValue(value(step), forKey: key)
          }
        } else if let found = try tree[key] {
          guard Set(found).count == 1, found.utf8.count >= 20 else { throw Mismatch(found) }
        }
      }
    }
    tree.trim()
    let report = try tree.verify()
    assertClean(report)
    XCTAssertEqual(report.unreachableRecords, 0)
  }

  /// Separators of long keys are freed while writers find their way by them. Under the address sanitizer a writer that
  /// follows one that is gone is reported.
  func testLongSeparatorsComeAndGo() throws {
    let heap = try makeHeap(megabytes: 32)
    let tree = try DurableBTree<String, Int>.create(in: heap, number: 3, options: nodeSizes[0].1)
    let rounds = rounds
    onThreads(4) { thread in
      var random = SeededGenerator(seed: UInt64(thread + 40))
      for step in 0..<(12_000 * rounds) {
        // Filled and emptied again and again, so that leaves split and merge all the time.
        let key = "a prefix that all keys share \(Int.random(in: 0..<60, using: &random) * 4 + thread)"
        if step / 100 % 2 == 0 {
          try tree.setValue(step, forKey: key)
        } else {
          try tree.removeValue(forKey: key)
        }
      }
    }
    tree.trim()
    assertClean(try tree.verify())
  }

  /// Leaves that a bulk load appends become reachable one after the other: a writer whose key belongs to one that is
  /// not yet must not put it into the one before.
  func testBulkLoadBesideWriters() throws {
    for (name, options) in nodeSizes {
      let heap = try makeHeap(megabytes: 64)
      let tree = try DurableBTree<Int, Int>.create(in: heap, number: 3, options: options)
      let top = Atomic<Int>(0)
      let stored = Mutex<[Int]>([])
      let loads = 300 * rounds
      onThreads(3) { thread in
        if thread == 0 {
          for _ in 0..<loads {
            let base = top.load(ordering: .acquiring)
            let keys = stride(from: base, to: base + 600, by: 2)
            do {
              try tree.append(contentsOf: keys.map { ($0, $0) })
              stored.withLock { $0 += keys }
            } catch let error as NVMError where error.code == .invalidArgument {
              // A writer was ahead.
            }
            top.store(base + 600, ordering: .releasing)
          }
          top.store(-1, ordering: .releasing)
        } else {
          var random = SeededGenerator(seed: UInt64(thread))
          var mine: [Int] = []
          while true {
            let base = top.load(ordering: .acquiring)
            if base < 0 { break }
            let key = base + Int.random(in: 0..<300, using: &random) * 2 + 1
            try tree.setValue(key, forKey: key)
            mine.append(key)
          }
          stored.withLock { $0 += mine }
        }
      }
      assertClean(try tree.verify(), name)
      let keys = Set(stored.withLock { $0 })
      XCTAssertEqual(tree.count, keys.count, name)
      XCTAssertEqual(try keys.count { try tree[$0] == $0 }, keys.count, name)
    }
  }

  func testCountersAddUpUnderAtomicUpdates() throws {
    let heap = try makeHeap(megabytes: 8)
    let tree = try DurableBTree<UInt8, Int>.create(in: heap, number: 3)
    onThreads(4) { thread in
      for step in 0..<2000 { try tree.updateValue(forKey: UInt8(step % 5)) { ($0 ?? 0) + 1 } }
    }
    XCTAssertEqual(try tree[...].reduce(0) { $0 + $1.value }, 8000)
  }

  /// A span handed out by `withBytes` stays as it is, whatever happens to the entry meanwhile.
  func testSpansOutliveTheirEntries() throws {
    let heap = try makeHeap(megabytes: 8)
    let tree = try DurableBTree<Int, String>.create(in: heap, number: 3)
    let text = String(repeating: "x", count: 1000)
    try tree.setValue(text, forKey: 1)
    try tree.withBytes(forKey: 1) { span in
      try tree.removeValue(forKey: 1)
      for i in 0..<200 { try tree.setValue(String(repeating: "y", count: 1000), forKey: i % 7 + 2) }
      XCTAssertGreaterThan(tree.statistics.waitingForReaders, 0)
      for i in 0..<span!.byteCount {
        XCTAssertEqual(span!.unsafeLoad(fromByteOffset: i, as: UInt8.self), 120)
      }
    }
    tree.trim()
    XCTAssertEqual(tree.statistics.waitingForReaders, 0)
  }

  /// `verify` reports no damage where there is none, while writers split, merge and replace records.
  func testVerifyingWhileOthersWrite() throws {
    let heap = try makeHeap()
    let options = TreeOptions(leafCapacity: 4, innerCapacity: 4, extentBytes: 16 << 10)
    let tree = try DurableBTree<Int, String>.create(in: heap, number: 3, options: options)
    for i in 0..<300 { try tree.setValue("the value of \(i)", forKey: i) }
    let writing = Atomic<Int>(1)
    DispatchQueue.concurrentPerform(iterations: 2) { thread in
      do {
        if thread == 0 {
          defer { writing.store(0, ordering: .relaxed) }
          for _ in 0..<20 {
            for i in 0..<300 where i % 10 != 0 { try tree.removeValue(forKey: i) }
            for i in 0..<300 { try tree.setValue("the value of \(i)", forKey: i) }
          }
        } else {
          while writing.load(ordering: .relaxed) != 0 {
            let report = try tree.verify()
            guard report.isClean else { return XCTFail("\(report.problems.prefix(3))") }
          }
        }
      } catch {
        XCTFail("thread \(thread): \(error)")
      }
    }
    let report = try tree.verify()
    assertClean(report)
    XCTAssertEqual(report.entries, 300)
  }

  /// The sum over the threads' counts is taken while they change, so one thread's removal may be in it without the
  /// insertion by another: the number of entries is never below none.
  func testTheCountIsNotNegative() {
    let count = EntryCount()
    defer { count.deallocate() }
    count.add(0 &- 1)
    XCTAssertEqual(count.total, 0)
    count.add(2)
    XCTAssertEqual(count.total, 1)
  }

  /// Threads that ask for the tree of one root at the same time get the same tree.
  func testMakingTheTreeOfARootAtOnce() throws {
    for round in 0..<20 {
      let heap = try makeHeap(megabytes: 4)
      DispatchQueue.concurrentPerform(iterations: 4) { thread in
        do {
          let tree = try DurableBTree<Int, Int>(in: heap, root: "the root")
          for i in 0..<20 { try tree.setValue(round, forKey: thread * 20 + i) }
        } catch {
          XCTFail("thread \(thread): \(error)")
        }
      }
      let tree = try DurableBTree<Int, Int>(in: heap, root: "the root")
      XCTAssertEqual(Array(try tree[...]).map(\.key), Array(0..<80))
      assertClean(try tree.verify())
      XCTAssertEqual(try heap.verify().problems.count, 0)
    }
  }
}
