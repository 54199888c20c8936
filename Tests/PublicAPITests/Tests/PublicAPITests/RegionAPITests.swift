import NVMRegion
import XCTest

/// `import NVMRegion` alone.
final class RegionAPITests: XCTestCase {
  func testBytesSurvive() throws {
    try withPath { path in
      let options = RegionOptions(media: .emulated)
      let region = try PersistentRegion.create(at: path, size: 1 << 20, options: options)
      let at = region.payloadStart
      region.store(42, at: at)
      try region.persist(at, count: 8)
      let pointer = PersistentPointer<SIMD2<Double>>(at + 64)
      region.write([1, 2], at: pointer)
      region.flush(pointer.offset, count: 16)
      try region.fence()
      XCTAssertEqual(region.counters.fences, region.threadCounters.fences)
      try region.close()
      let again = try PersistentRegion.open(at: path, options: options)
      XCTAssertEqual(again.load(at), 42)
      XCTAssertEqual(again.load(pointer), [1, 2])
      XCTAssert(again.wasCleanlyClosed)
      try again.grow(toAtLeast: 2 << 20)
      try again.close()
      do {
        try again.checkUsable()
        XCTFail("a closed region is usable")
      } catch {
        XCTAssertEqual((error as? NVMError)?.code, .closed)
      }
    }
  }
}
