import Foundation
import Glibc
import NVMRegion
import NVMalloc
import XCTest

@testable import NVMBTree

/// A file in memory under a journal, whose syncs can be held up or made to fail.
final class MemoryFile: JournalFile, @unchecked Sendable {
  private struct State {
    var bytes: [UInt8]
    var isHeld = false
    /// Syncs of a checkpoint wait.
    var isCheckpointHeld = false
    var syncs = 0
    /// Threads that wait in a sync.
    var waiting = 0
    var error: Int32 = 0
  }
  private let state: Monitor<State>

  init(size: Int) { state = Monitor(State(bytes: [UInt8](repeating: 0, count: size))) }

  var syncs: Int { state.change { _ in }.syncs }
  func hold() { state.change { $0.isHeld = true } }
  func holdCheckpoints() { state.change { $0.isCheckpointHeld = true } }
  func releaseCheckpoints() { state.change { $0.isCheckpointHeld = false } }
  func release() { state.change { $0.isHeld = false } }
  func failFromNowOn() { state.change { $0.error = -EIO } }
  /// Returns when a thread is held up in a sync.
  func waitUntilHeld() { state.change({ _ in }, thenWaitUntil: { $0.waiting > 0 }) }

  func read(_ buffer: UnsafeMutableRawBufferPointer, at offset: Int) -> Int32 {
    state.change { state in
      state.bytes.withUnsafeBytes {
        buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[offset..<offset + buffer.count]))
      }
    }
    return 0
  }
  func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) -> Int32 {
    state.change { state in
      state.bytes.withUnsafeMutableBytes {
        UnsafeMutableRawBufferPointer(rebasing: $0[offset..<offset + bytes.count]).copyMemory(from: bytes)
      }
    }
    return 0
  }
  func writeDurably(_ bytes: UnsafeRawBufferPointer, at offset: Int) -> Int32 {
    state.change({ $0.waiting += 1 }, thenWaitUntil: { !$0.isHeld })
    let error = state.change {
      $0.waiting -= 1
      $0.syncs += 1
    }.error
    return error < 0 ? error : write(bytes, at: offset)
  }
  func startWriting(at offset: Int, count: Int) {}
  func sync() -> Int32 {
    state.change({ _ in }, thenWaitUntil: { !$0.isCheckpointHeld })
    return state.change { $0.syncs += 1 }.error
  }
  func didGrow(to size: Int) {
    state.change { $0.bytes += [UInt8](repeating: 0, count: max(0, size - $0.bytes.count)) }
  }

  func makeHeap(megabytes: Int) throws -> PersistentHeap {
    var options = JournaledFileMedium.Options()
    options.privatePages = .max
    let region = try PersistentRegion.inMemory(
      file: self, journalSize: 1 << 20, size: megabytes << 20, maximumSize: megabytes << 22, uuid: .random(),
      options: options)
    return try PersistentHeap.format(region)
  }
}

/// Trees on a journal: what is not durable is not read, and nobody holds a lock while the disk works.
final class TreeJournalTests: XCTestCase {
  private func makeTree() throws -> (DurableBTree<Int, Int>, MemoryFile, PersistentHeap) {
    let file = MemoryFile(size: 10 << 20)
    let heap = try file.makeHeap(megabytes: 8)
    let tree = try DurableBTree<Int, Int>.create(
      in: heap, number: 3, options: TreeOptions(leafCapacity: 4, innerCapacity: 3, extentBytes: 16 << 10))
    return (tree, file, heap)
  }

  /// Runs each body on a thread of its own; the last one, on this thread, sees what the others have done so far.
  private func together(
    _ bodies: [@Sendable () throws -> Void], meanwhile: (Done) throws -> Void
  ) throws {
    let done = Done()
    let group = DispatchGroup()
    for (i, body) in bodies.enumerated() {
      let thread = Thread {
        do { try body() } catch { XCTFail("thread \(i): \(error)") }
        done.insert(i)
        group.leave()
      }
      group.enter()
      thread.start()
    }
    try meanwhile(done)
    group.wait()
  }

  func testReadersWaitForWhatIsNotDurable() throws {
    let (tree, file, heap) = try makeTree()
    for key in 0..<20 { try tree.setValue(key, forKey: key * 10) }
    file.hold()
    try together([
      { try tree.setValue(-1, forKey: 50) },
      // In the same leaf, in another, and one that is gone.
      {
        file.waitUntilHeld()
        XCTAssertEqual(try tree[50], -1)
      },
      {
        file.waitUntilHeld()
        XCTAssertEqual(try tree[190], 19)
      },
      {
        file.waitUntilHeld()
        var sum = 0
        for (_, value) in try tree[40..<60] { sum += value }
        XCTAssertEqual(sum, 3)
      },
      {
        file.waitUntilHeld()
        XCTAssertEqual(try tree.values(forKeys: [190, 50]), [19, -1])
      },
    ]) { done in
      file.waitUntilHeld()
      for _ in 0..<200 where !done.all.contains(2) { usleep(10_000) }
      usleep(50_000)
      // Only the reader of the other leaf has come back.
      XCTAssertEqual(done.all, [2])
      file.release()
    }
    heap.close()
  }

  /// While one writer waits for the disk, others go on in the same leaf, and all share the next sync.
  func testNoLockIsHeldWhileTheDiskWorks() throws {
    let (tree, file, heap) = try makeTree()
    for key in 0..<8 { try tree.setValue(key, forKey: key * 10) }
    file.hold()
    let before = file.syncs
    try together(
      (0..<6).map { i in { try tree.setValue(i, forKey: 1000 + i) } }
        + [{ _ = try tree.removeValue(forKey: 20) }]
    ) { done in
      file.waitUntilHeld()
      // All have made their changes, splits included, in the leaf of the first.
      for _ in 0..<500 where tree.count != 13 { usleep(10_000) }
      XCTAssertEqual(tree.count, 13)
      XCTAssertEqual(done.all, [])
      file.release()
    }
    XCTAssertLessThanOrEqual(file.syncs - before, 3)
    assertClean(try tree.verify())
    heap.close()
  }

  func testManyValuesWaitOnce() throws {
    let (tree, file, heap) = try makeTree()
    let before = file.syncs
    try tree.updateValues((0..<500).map { ($0 * 7919 % 1009, $0) })
    XCTAssertEqual(file.syncs - before, 1)
    for i in 0..<500 { XCTAssertEqual(try tree[i * 7919 % 1009], i) }
    XCTAssertEqual(file.syncs - before, 1)
    heap.close()
  }

  /// Of what the journal is given, at least two thirds are words that changed.
  func testJournalBytesForChangedBytes() throws {
    let file = MemoryFile(size: 42 << 20)
    let heap = try file.makeHeap(megabytes: 32)
    let tree = try DurableBTree<UInt64, UInt64>.create(in: heap, number: 3)
    var random = SeededGenerator(seed: 7)
    try tree.updateValues((0..<50_000).map { _ in (random.next(), random.next()) })
    func cost(_ changes: Int, perCommit: Int) throws -> Double {
      let region = heap.region
      let before = (region.threadCounters, try XCTUnwrap(region.journalStatistics))
      for _ in 0..<changes / perCommit {
        let deferral = region.beginDeferral()
        for _ in 0..<perCommit { try tree.setValue(random.next(), forKey: random.next()) }
        if deferral { region.endDeferral() }
        try region.acknowledge()
      }
      let after = (region.threadCounters, try XCTUnwrap(region.journalStatistics))
      XCTAssertEqual(after.1.syncs - before.1.syncs, UInt64(changes / perCommit))
      return Double(after.1.appended - before.1.appended) / Double((after.0 - before.0).bytes)
    }
    for perCommit in [10, 100, 1000] {
      let ratio = try cost(10_000, perCommit: perCommit)
      XCTAssertLessThanOrEqual(ratio, 1.5, "\(perCommit) per commit")
      // Less than what changed would be a journal that forgets something.
      XCTAssertGreaterThan(ratio, 0.5, "\(perCommit) per commit")
    }
    heap.close()
  }

  /// Writers that wait for a checkpoint hold no leaf: every entry can be read meanwhile.
  func testAFullJournalKeepsNobodyFromReading() throws {
    let (tree, file, heap) = try makeTree()
    for key in 0..<64 { try tree.setValue(key, forKey: key) }
    file.holdCheckpoints()
    let value = Lock(0)
    let body: @Sendable () throws -> Void = {
      // Three laps.
      for i in 0..<60_000 {
        try tree.setValue(i, forKey: i & 63)
        value.withLock { $0 = i }
      }
    }
    try together([body, body]) { done in
      var last = -1
      var same = 0
      // Until the ring is full: nothing has moved for a while.
      for _ in 0..<6000 where same < 20 {
        usleep(10_000)
        let now = value.withLock { $0 }
        same = now == last ? same + 1 : 0
        last = now
      }
      XCTAssertEqual(done.all, [])
      for key in 0..<64 { XCTAssertEqual((try tree[key] ?? -1) & 63, key) }
      file.releaseCheckpoints()
    }
    assertClean(try tree.verify())
    heap.close()
  }

  func testReadingAhead() throws {
    let file = MemoryFile(size: 10 << 20)
    let heap = try file.makeHeap(megabytes: 8)
    var options = TreeOptions()
    options.readsAhead = true
    let tree = try DurableBTree<Int, Int>.create(in: heap, number: 3, options: options)
    file.hold()
    try together([{ try tree.setValue(1, forKey: 1) }]) { _ in
      file.waitUntilHeld()
      XCTAssertEqual(try tree[1], 1)
      file.release()
    }
    heap.close()
  }

  /// A reader that waits for a change whose sync fails is told, not shown the change.
  func testAFailedSyncReachesReaders() throws {
    let (tree, file, heap) = try makeTree()
    try tree.setValue(1, forKey: 1)
    file.hold()
    try together([
      { XCTAssertThrowsError(try tree.setValue(2, forKey: 1)) },
      {
        file.waitUntilHeld()
        XCTAssertThrowsError(try tree[1])
      },
    ]) { _ in
      file.waitUntilHeld()
      usleep(100_000)
      file.failFromNowOn()
      file.release()
    }
    XCTAssertThrowsError(try tree[1])
    heap.close()
  }
}

/// Which threads have ended.
private final class Done: Sendable {
  private let threads = Lock<Set<Int>>([])
  var all: Set<Int> { threads.withLock { $0 } }
  func insert(_ thread: Int) { threads.withLock { _ = $0.insert(thread) } }
}
