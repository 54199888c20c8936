import CNVM
import Foundation
import NVMRegion
import Synchronization
import XCTest

/// What each primitive stores, and what it counts.
final class PrimitiveTests: RegionTestCase {
  private func withEachRegion(_ body: (PersistentRegion) throws -> Void) throws {
    for (path, options) in everyMedium {
      let region = try PersistentRegion.create(at: path, size: 8 << 20, options: options)
      try body(region)
      try region.close()
    }
    try body(.inMemory(image: nil, size: 8 << 20, maximumSize: 8 << 20, medium: nil))
    let path = memoryPath("read")
    try PersistentRegion.create(at: path, size: 8 << 20, options: RegionOptions(media: .emulated)).close()
    let reader = try PersistentRegion.open(
      at: path, options: RegionOptions(media: .emulated, access: .readOnly))
    try body(reader)
    try reader.close()
  }

  func testCountersAreExact() throws {
    try withEachRegion { region in
      let start = region.payloadStart
      func assertCounts(
        fences: UInt64 = 0, orders: UInt64 = 0, lines: UInt64 = 0, bytes: UInt64 = 0, line: UInt = #line,
        _ body: () throws -> Void
      ) rethrows {
        let before = region.threadCounters
        let all = region.counters
        try body()
        var expected = RegionCounters()
        (expected.fences, expected.orders, expected.lines, expected.bytes) = (fences, orders, lines, bytes)
        XCTAssertEqual(region.threadCounters - before, expected, "\(region.media)", line: line)
        XCTAssertEqual(region.counters - all, expected, "\(region.media)", line: line)
      }
      assertCounts(bytes: 8) { region.store(1, at: start) }
      assertCounts { _ = region.load(start) }
      assertCounts(lines: 1) { region.flush(start, count: 8) }
      assertCounts(lines: 0) { region.flush(start, count: 0) }
      assertCounts(lines: 2) { region.flush(start + 60, count: 8) }
      assertCounts(lines: 1) { region.flush(start + 63, count: 1) }
      assertCounts(lines: 64) { region.flush(start, count: 4096) }
      assertCounts(lines: 65) { region.flush(start + 8, count: 4096) }
      try assertCounts(orders: 1) { try region.order() }
      try assertCounts(fences: 1) { try region.fence() }
      try assertCounts(fences: 1, lines: 1) { try region.persist(start, count: 64) }
      try assertCounts(fences: 1, lines: 1, bytes: 8) { try region.storeDurable(2, at: start) }
      assertCounts(bytes: 100) { region.fill(start, count: 100, with: 1) }
      assertCounts(bytes: 0) { region.fill(start, count: 0) }
      assertCounts(bytes: 50) { region.copy(from: start, to: start + 200, count: 50) }
      assertCounts(bytes: 12) {
        region.write(7 as UInt64, at: PersistentPointer(start)); region.fill(start, count: 4)
      }
      for (count, lines) in [(1, 1), (64, 1), (65, 2), (255, 4), (256, 4), (257, 5), (100_000, 1563)] {
        let bytes = [UInt8](repeating: 9, count: count)
        assertCounts(lines: UInt64(lines), bytes: UInt64(count)) {
          bytes.withUnsafeBytes { region.writeFlushed($0, at: start) }
        }
      }
      assertCounts { region.writeFlushed(UnsafeRawBufferPointer(start: nil, count: 0), at: start) }
      assertCounts { region.write(UnsafeRawBufferPointer(start: nil, count: 0), at: start) }
    }
  }

  func testBytesArriveAsWritten() throws {
    var generator = SeededGenerator(seed: .random(in: 0 ... .max))
    try withEachRegion { region in
      let start = region.payloadStart
      let room = region.size - start.bytes
      var model = [UInt8](repeating: 0, count: room)
      for _ in 0..<400 {
        let count = min(
          Int.random(in: 0...(1 << Int.random(in: 0...17, using: &generator)), using: &generator), room)
        let at = Int.random(in: 0...(room - count), using: &generator)
        let byte = UInt8.random(in: 0 ... .max, using: &generator)
        let content = (0..<count).map { byte &+ UInt8(truncatingIfNeeded: $0) }
        switch Int.random(in: 0..<5, using: &generator) {
        case 0:
          content.withUnsafeBytes { region.write($0, at: start + at) }
          model.replaceSubrange(at..<at + count, with: content)
        case 1:
          content.withUnsafeBytes { region.writeFlushed($0, at: start + at) }
          try region.fence()
          model.replaceSubrange(at..<at + count, with: content)
        case 2:
          region.fill(start + at, count: count, with: byte)
          for i in at..<at + count { model[i] = byte }
        case 3:
          let source = Int.random(in: 0...(room - count), using: &generator)
          guard source + count <= at || at + count <= source else { continue }
          region.copy(from: start + source, to: start + at, count: count)
          model.replaceSubrange(at..<at + count, with: Array(model[source..<source + count]))
        default:
          let word = UInt64.random(in: 0 ... .max, using: &generator)
          let aligned = min(at, room - 8) & ~7
          if word & 1 == 0 {
            region.store(word, at: start + aligned)
          } else {
            try region.storeDurable(word, at: start + aligned)
          }
          for i in 0..<8 { model[aligned + i] = UInt8(truncatingIfNeeded: word >> UInt64(8 * i)) }
          XCTAssertEqual(region.load(start + aligned), word)
        }
      }
      let same = model.withUnsafeBytes { memcmp($0.baseAddress!, region.pointer(to: start), room) == 0 }
      XCTAssertTrue(same, "\(region.media), seed \(generator.seed)")
    }
  }

  func testLargeNontemporalWriteSurvivesReopening() throws {
    for (path, options) in everyMedium {
      let region = try PersistentRegion.create(at: path, size: 8 << 20, options: options)
      let content = (0..<(6 << 20) + 13).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) }
      content.withUnsafeBytes { region.writeFlushed($0, at: region.payloadStart + 5) }
      try region.fence()
      region.abandon()
      let again = try PersistentRegion.open(at: path, options: options)
      content.withUnsafeBytes {
        XCTAssertEqual(memcmp($0.baseAddress!, again.pointer(to: again.payloadStart + 5), $0.count), 0)
      }
      XCTAssertEqual(again.pointer(to: again.payloadStart).load(as: UInt32.self), 0)
      try again.close()
    }
  }

  func testTypedPointers() throws {
    struct Point: BitwiseCopyable, Equatable {
      var x: Int32
      var y: Double
    }
    try withEachRegion { region in
      let first = PersistentPointer<Point>(region.payloadStart + 64)
      for i in 0..<10 { region.write(Point(x: Int32(i), y: Double(i) / 2), at: first.advanced(by: i)) }
      for i in 0..<10 {
        XCTAssertEqual(region.load(first.advanced(by: i)), Point(x: Int32(i), y: Double(i) / 2))
      }
      XCTAssertTrue(PersistentPointer<Point>.null.isNull)
      XCTAssertEqual(MemoryLayout<PersistentPointer<Point>>.size, 8)
      XCTAssertEqual(first.advanced(by: 2).offset - first.offset, 2 * MemoryLayout<Point>.stride)
    }
    XCTAssertTrue(Offset.null.isNull)
    XCTAssertEqual(Offset(4096).description, "0x1000")
    XCTAssertLessThan(Offset(Int.max), Offset(rawValue: .max))
    XCTAssertEqual(Offset(rawValue: 100) - 50 + 7, Offset(57))
  }

  func testMediaIsFoundOutAndForced() throws {
    unsetenv("PMEM_IS_PMEM_FORCE")
    defer { unsetenv("PMEM_IS_PMEM_FORCE") }
    let plain = try PersistentRegion.create(at: memoryPath(), size: 1 << 16)
    XCTAssertEqual(plain.media, .journaledFile)
    try plain.close()
    for (value, media) in [("1", RegionMedia.emulated), ("0", .journaledFile), ("", .journaledFile)] {
      setenv("PMEM_IS_PMEM_FORCE", value, 1)
      let forced = try PersistentRegion.open(at: memoryPath())
      XCTAssertEqual(forced.media, media)
      try forced.close()
    }
    setenv("PMEM_IS_PMEM_FORCE", "1", 1)
    let asked = try PersistentRegion.open(at: memoryPath(), options: RegionOptions(media: .inPlaceFile))
    XCTAssertEqual(asked.media, .inPlaceFile)
    XCTAssertEqual(asked.media.description, "in-place file")
    try asked.close()
    let reader = try PersistentRegion.open(
      at: memoryPath(), options: RegionOptions(media: .automatic, access: .readOnly))
    XCTAssertEqual(reader.media, .inPlaceFile, "a reader reports what the file was last written as")
    try reader.close()
    // A file without a journal.
    let bare = memoryPath("bare")
    try PersistentRegion.create(at: bare, size: 1 << 16, options: RegionOptions(media: .emulated)).close()
    assertThrows(.unsupported, path: bare, mentioning: "without a journal") {
      try PersistentRegion.open(at: bare, options: RegionOptions(media: .journaledFile))
    }
    unsetenv("PMEM_IS_PMEM_FORCE")
    let found = try PersistentRegion.open(at: bare)
    XCTAssertEqual(found.media, .inPlaceFile)
    try found.close()
    XCTAssertFalse(PersistentRegion.flushInstruction.isEmpty)
  }

  /// Threads work on lines of their own; every word arrives and every count is exact.
  func testFourThreads() throws {
    for (path, options) in everyMedium {
      let region = try PersistentRegion.create(at: path, size: 1 << 20, options: options)
      let before = region.counters
      let rounds = options.media == .emulated ? 20_000 : 100
      onThreads(4) { thread in
        for round in 1...rounds {
          let at = region.payloadStart + (thread * 64 + round % 64) * 64
          region.store(UInt64(round), at: at)
          do throws(NVMError) {
            try region.persist(at, count: 8)
            if round % 10 == 0 { try region.order() }
          } catch {
            XCTFail("\(error)")
          }
        }
      }
      let counts = region.counters - before
      XCTAssertEqual(counts.fences, UInt64(4 * rounds))
      XCTAssertEqual(counts.lines, UInt64(4 * rounds))
      XCTAssertEqual(counts.bytes, UInt64(4 * rounds * 8))
      XCTAssertEqual(counts.orders, UInt64(4 * rounds / 10))
      region.abandon()
      let again = try PersistentRegion.open(at: path, options: options)
      for thread in 0..<4 {
        for round in (rounds - 63)...rounds {
          XCTAssertEqual(again.load(again.payloadStart + (thread * 64 + round % 64) * 64), UInt64(round))
        }
      }
      try again.close()
    }
  }

  /// More threads than slots: the counts of those that share one are not lost either.
  func testCountsOfThreadsThatShareASlot() throws {
    let region = try PersistentRegion.inMemory(image: nil, size: 1 << 20, maximumSize: 1 << 20, medium: nil)
    let count = Int(NVM_THREAD_SLOTS) + 60
    let before = region.counters
    let barrier = Barrier(count)
    let sharing = Atomic(0)
    onThreads(count) { thread in
      let isShared = nvm_thread_slot() == 0
      if isShared { sharing.add(1, ordering: .relaxed) }
      barrier.wait()
      for _ in 0..<(isShared ? 20_000 : 10) { region.store(1, at: region.payloadStart + thread * 64) }
      barrier.wait()
    }
    let shared = sharing.load(ordering: .relaxed)
    XCTAssertGreaterThanOrEqual(shared, 60)
    XCTAssertEqual((region.counters - before).bytes, UInt64(8 * (20_000 * shared + 10 * (count - shared))))
  }

  /// A word that several threads store is always one of theirs, never a mixture; growth does not disturb it.
  func testWordsAreNotTornWhileTheRegionGrows() throws {
    var options = RegionOptions(media: .emulated)
    options.maximumSize = 64 << 20
    let region = try PersistentRegion.create(at: memoryPath(), size: 1 << 16, options: options)
    let at = region.payloadStart
    onThreads(4) { thread in
      if thread == 0 {
        for size in stride(from: 1 << 16, to: 4 << 20, by: 1 << 16) {
          do throws(NVMError) {
            try region.grow(toAtLeast: size)
            region.store(1, at: region.end - 8)
          } catch {
            XCTFail("\(error)")
          }
        }
        return
      }
      for _ in 0..<50_000 {
        if thread < 3 { region.store(UInt64(thread) &* 0x0101_0101_0101_0101, at: at) }
        let word = region.load(at)
        if word != 0, word != 0x0101_0101_0101_0101, word != 0x0202_0202_0202_0202 {
          XCTFail("torn: \(word)")
        }
      }
    }
    try region.close()
  }
}
