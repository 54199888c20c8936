import XCTest

@testable import NVMTesting

/// The fault models, against images counted by hand.
final class MediaStateTests: XCTestCase {
  private struct Script {
    var trace = Trace()

    private mutating func append(
      _ kind: Trace.Event.Kind, _ thread: Int32, _ offset: Int, _ count: Int, _ data: Int = 0
    ) {
      trace.events.append(
        Trace.Event(
          kind: kind, thread: thread, operation: -1, site: -1, offset: offset, count: count, data: data))
    }
    mutating func store(_ value: UInt64, at offset: Int, _ kind: Trace.Event.Kind = .store, thread: Int32 = 1)
    {
      write([value], at: offset, kind, thread: thread)
    }
    mutating func write(
      _ values: [UInt64], at offset: Int, _ kind: Trace.Event.Kind = .write, thread: Int32 = 1
    ) {
      let data = trace.words.count
      trace.words += values
      append(kind, thread, offset, values.count, data)
    }
    mutating func flush(_ offset: Int, _ count: Int = 8, thread: Int32 = 1) {
      append(.flush, thread, offset, count)
    }
    mutating func fence(thread: Int32 = 1) { append(.fence, thread, 0, 0) }
  }

  /// The distinct images after a script, as the words at the given offsets.
  private func images(
    _ model: CrashModel = .cacheLine, at offsets: [Int], options: CrashOptions = CrashOptions(),
    _ build: (inout Script) -> Void
  ) -> Set<[UInt64]> {
    var script = Script()
    build(&script)
    let state = MediaState(model: model, image: nil, size: 8192, capacity: 8192)
    for (i, event) in script.trace.events.enumerated() {
      state.apply(event, at: i, words: script.trace.words)
    }
    var enumerator = ImageEnumerator(
      state: state, options: options, generator: SeededGenerator(seed: 1), headerUnits: 0)
    var result: Set<[UInt64]> = []
    var hashes: Set<UInt64> = []
    _ = enumerator.forEach(limit: 100_000) { choice, units in
      var image = (0..<1024).map { state.base[$0] }
      var hash = state.hash
      for (i, unit) in units.enumerated() {
        image.replaceSubrange(
          unit.unit * unit.unitWords..<(unit.unit + 1) * unit.unitWords, with: unit.content(choice[i]))
        hash = hash &+ unit.deltas[choice[i]]
      }
      var whole: UInt64 = 0
      for i in 0..<1024 { whole = whole &+ MediaState.wordHash(i, image[i]) }
      XCTAssertEqual(hash, whole, "the hash of an image follows from its words")
      hashes.insert(hash)
      result.insert(offsets.map { image[$0 / 8] })
      return true
    }
    return result
  }

  func testWordsOfOneLineArriveInOrder() {
    let found = images(at: [0, 8]) {
      $0.store(1, at: 0)
      $0.store(2, at: 8)
    }
    XCTAssertEqual(found, [[0, 0], [1, 0], [1, 2]])
  }

  func testLinesAreIndependent() {
    let found = images(at: [0, 64]) {
      $0.store(1, at: 0)
      $0.store(2, at: 64)
    }
    XCTAssertEqual(found, [[0, 0], [1, 0], [0, 2], [1, 2]])
  }

  func testBulkWriteHasAnySubset() {
    let found = images(at: [0, 8, 16]) { $0.write([1, 2, 3], at: 0) }
    XCTAssertEqual(found.count, 8)
  }

  func testRunOfBulkWritesIsOneGroup() {
    let joined = images(at: [0, 8]) {
      $0.write([1], at: 0)
      $0.write([2], at: 8)
    }
    XCTAssertEqual(joined, [[0, 0], [1, 0], [0, 2], [1, 2]])
    let parted = images(at: [0, 8]) {
      $0.write([1], at: 0)
      $0.flush(256)
      $0.write([2], at: 8)
    }
    XCTAssertEqual(parted, [[0, 0], [1, 0], [1, 2]])
  }

  func testAWordWrittenTwiceKeepsItsOrder() {
    let found = images(at: [0]) {
      $0.write([1], at: 0)
      $0.write([2], at: 0)
    }
    XCTAssertEqual(found, [[0], [1], [2]])
  }

  func testOnlyFlushAndFenceOfTheSameThreadSettle() {
    XCTAssertEqual(
      images(at: [0]) {
        $0.store(1, at: 0)
        $0.flush(0)
      }, [[0], [1]])
    XCTAssertEqual(
      images(at: [0]) {
        $0.store(1, at: 0)
        $0.fence()
      }, [[0], [1]])
    XCTAssertEqual(
      images(at: [0]) {
        $0.store(1, at: 0)
        $0.flush(0)
        $0.fence(thread: 2)
      }, [[0], [1]])
    XCTAssertEqual(
      images(at: [0]) {
        $0.store(1, at: 0)
        $0.flush(0, thread: 2)
        $0.fence(thread: 2)
      }, [[1]])
  }

  func testStoreAfterFlushIsNotCovered() {
    let found = images(at: [0, 8]) {
      $0.store(1, at: 0)
      $0.flush(0)
      $0.store(2, at: 8)
      $0.fence()
    }
    XCTAssertEqual(found, [[1, 0], [1, 2]])
  }

  func testNontemporalWordStandsApart() {
    // Before the fence it may overtake the cached store of its line; after it, it is certain.
    let before = images(at: [0, 8]) {
      $0.store(1, at: 0)
      $0.store(2, at: 8, .nontemporal)
    }
    XCTAssertEqual(before, [[0, 0], [1, 0], [0, 2], [1, 2]])
    let after = images(at: [0, 8]) {
      $0.store(1, at: 0)
      $0.store(2, at: 8, .nontemporal)
      $0.fence()
    }
    XCTAssertEqual(after, [[0, 2], [1, 2]])
  }

  func testLaterStoreOfAWordWins() {
    // The durable non-temporal store cannot be undone by the older cached one …
    let found = images(at: [0]) {
      $0.store(1, at: 0)
      $0.store(2, at: 0, .nontemporal)
      $0.fence()
    }
    XCTAssertEqual(found, [[2]])
    // … nor a durable cached store by an older non-temporal one of another thread.
    let other = images(at: [0]) {
      $0.store(1, at: 0, .nontemporal, thread: 2)
      $0.store(2, at: 0)
      $0.flush(0)
      $0.fence()
    }
    XCTAssertEqual(other, [[2]])
  }

  func testInPlaceFileTearsBySectorAndSyncsByPage() {
    let found = images(.inPlaceFile, at: [0, 64, 512, 4096]) {
      $0.store(1, at: 0)
      $0.store(2, at: 64)
      $0.store(3, at: 512)
      $0.store(4, at: 4096)
      $0.flush(4096)
      $0.fence()
    }
    // The page of 4096 is certain; sector 0 has three versions, sector 512 two.
    XCTAssertEqual(
      found, [[0, 0, 0, 4], [1, 0, 0, 4], [1, 2, 0, 4], [0, 0, 3, 4], [1, 0, 3, 4], [1, 2, 3, 4]])
  }

  func testAutomaticFlushKeepsEveryStore() {
    let found = images(.automaticFlush, at: [0, 64]) {
      $0.store(1, at: 0)
      $0.store(2, at: 64)
    }
    XCTAssertEqual(found, [[1, 2]])
  }

  func testSamplingTakesExtremesAndPairs() {
    // 20 lines of one word: 2^20 images, more than are enumerated.
    let offsets = (0..<20).map { $0 * 64 }
    let found = images(at: offsets) { script in
      for (i, offset) in offsets.enumerated() { script.store(UInt64(i + 1), at: offset) }
    }
    XCTAssertLessThan(found.count, 1 << 20)
    XCTAssertTrue(found.contains(offsets.map { _ in 0 }))
    let all = (1...20).map { UInt64($0) }
    XCTAssertTrue(found.contains(all))
    for i in 0..<20 {
      var one = offsets.map { _ in UInt64(0) }
      one[i] = all[i]
      XCTAssertTrue(found.contains(one), "only line \(i)")
      one = all
      one[i] = 0
      XCTAssertTrue(found.contains(one), "all but line \(i)")
      for j in 0..<20 where i != j {
        XCTAssertTrue(found.contains { $0[i] != 0 && $0[j] == 0 }, "line \(i) without line \(j)")
      }
    }
  }
}
