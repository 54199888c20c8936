import Foundation
import NVMRegion
import XCTest

final class GrowthTests: RegionTestCase {
  func testGrowthKeepsBaseAndContent() throws {
    for (path, options) in everyMedium {
      let region = try PersistentRegion.create(at: path, size: 1 << 16, options: options)
      let base = region.baseAddress
      var sizes = [region.size]
      for bytes in [1 << 16 + 1, 100_000, 1 << 18, 1 << 20, 5 << 20] {
        let wanted = bytes + region.journalBytes
        let mark = region.end - 8
        region.store(UInt64(region.size), at: mark)
        try region.persist(mark, count: 8)
        let old = region.size
        try region.grow(toAtLeast: wanted)
        XCTAssertEqual(region.size, (wanted + 4095) & ~4095)
        XCTAssertEqual(fileSize(path), region.size)
        XCTAssertEqual(region.baseAddress, base)
        for at in stride(from: old, to: region.size, by: 4096) { XCTAssertEqual(region.load(Offset(at)), 0) }
        sizes.append(region.size)
      }
      try region.grow(toAtLeast: 0)
      try region.grow(toAtLeast: -5)
      try region.grow(toAtLeast: region.size)
      XCTAssertEqual(region.size, sizes.last)
      region.abandon()
      let again = try PersistentRegion.open(at: path, options: options)
      XCTAssertEqual(again.size, sizes.last)
      for size in sizes.dropLast() { XCTAssertEqual(again.load(Offset(size - 8)), UInt64(size)) }
      try again.close()
    }
  }

  func testGrowthIsBoundedByTheOptions() throws {
    for limit in [1 << 17, 1 << 17 + 100, 1 << 16, 0] {
      var options = RegionOptions(media: .emulated)
      options.maximumSize = limit
      let path = memoryPath("l\(limit)")
      let region = try PersistentRegion.create(at: path, size: 1 << 16, options: options)
      XCTAssertEqual(region.maximumSize, max(limit & ~4095, 1 << 16))
      for wanted in [region.maximumSize + 1, 1 << 30, Int.max] {
        assertThrows(.outOfSpace, path: path, mentioning: "limit is") { try region.grow(toAtLeast: wanted) }
      }
      try region.grow(toAtLeast: region.maximumSize)
      XCTAssertEqual(region.size, region.maximumSize)
      XCTAssertEqual(fileSize(path), region.size)
      try region.close()
    }
  }

  /// What stands past the region's end in the file (a crash in growth, somebody's appended bytes) is never
  /// taken for fresh space.
  func testNewSpaceReadsAsZeroWhateverStoodThere() throws {
    for (path, options) in everyMedium {
      try PersistentRegion.create(at: path, size: 1 << 16, options: options).close()
      let file = try XCTUnwrap(FileHandle(forWritingAtPath: path))
      try file.seekToEnd()
      try file.write(contentsOf: Data(repeating: 0xAB, count: 300_000))
      try file.close()
      let region = try PersistentRegion.open(at: path, options: options)
      let old = region.size
      try region.grow(toAtLeast: old + (1 << 16))
      for at in stride(from: old, to: region.size, by: 8) where region.load(Offset(at)) != 0 {
        XCTFail("not zero at \(at)")
        break
      }
      XCTAssertEqual(fileSize(path), old + (1 << 16))
      try region.close()
    }
  }

  /// A growth that waits while the region is closed finds it closed.
  func testGrowthThatWaitedForCloseIsRefused() throws {
    let medium = SlowMedium()
    let region = try PersistentRegion.inMemory(
      image: nil, size: 1 << 16, maximumSize: 1 << 20, medium: medium)
    medium.isSlow = true
    onThreads(3) { thread in
      if thread == 0 {
        try? region.close()
        return
      }
      // Close is in its first fence now, which lasts long enough for these to pass the first check.
      medium.entered.wait()
      medium.entered.signal()
      do throws(NVMError) {
        try region.grow(toAtLeast: 1 << 17)
        XCTFail("grown after close")
      } catch {
        XCTAssertEqual(error.code, .closed)
      }
    }
    XCTAssertEqual(region.size, 1 << 16)
  }

  func testGrowAndCloseRace() throws {
    for round in 0..<20 {
      let region = try PersistentRegion.create(
        at: memoryPath("race\(round)"), size: 1 << 16, options: RegionOptions(media: .emulated))
      onThreads(4) { thread in
        if thread == 0 {
          for _ in 0..<round { sched_yield() }
          try? region.close()
          return
        }
        for step in 1..<64 {
          do throws(NVMError) {
            try region.grow(toAtLeast: (1 << 16) + step * 8192)
          } catch {
            XCTAssertEqual(error.code, .closed, "\(error)")
          }
        }
      }
      assertThrows(.closed, path: region.path) { try region.grow(toAtLeast: 1 << 25) }
      let size = region.size
      let again = try PersistentRegion.open(at: region.path, options: RegionOptions(media: .emulated))
      XCTAssertTrue(again.wasCleanlyClosed)
      XCTAssertEqual(again.size, size, "growth after close was acknowledged")
      XCTAssertEqual(fileSize(region.path), size)
      try again.close()
    }
  }
}

/// Memory whose fence takes its time.
private final class SlowMedium: RegionMedium, @unchecked Sendable {
  var isSlow = false
  let entered = DispatchSemaphore(value: 0)

  func store(_ word: UInt64, at p: UnsafeMutableRawPointer) { p.storeBytes(of: word, as: UInt64.self) }
  func storeNontemporal(_ word: UInt64, at p: UnsafeMutableRawPointer) { store(word, at: p) }
  func write(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    p.copyMemory(from: source.baseAddress!, byteCount: source.count)
  }
  func writeNontemporal(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    write(source, at: p)
  }
  func fill(_ byte: UInt8, count: Int, at p: UnsafeMutableRawPointer) { memset(p, Int32(byte), count) }
  func flush(_ p: UnsafeMutableRawPointer, count: Int) {}
  func order() throws(NVMError) {}
  func fence() throws(NVMError) {
    guard isSlow else { return }
    entered.signal()
    usleep(50_000)
  }
}
