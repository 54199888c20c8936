import NVMBTree
import XCTest

final class CodingKeyHeadTests: XCTestCase {
  /// The definition, byte by byte.
  private func plainHead(_ bytes: [UInt8]) -> UInt64 {
    var head: UInt64 = 0
    for index in 0..<7 { head = head << 8 | UInt64(index < bytes.count ? bytes[index] : 0) }
    return head << 8 | UInt64(min(bytes.count, 8))
  }

  func testHeadIsTheDefinitionAtEveryLengthAndAlignment() {
    var random = CodingRandom()
    for count in 0...40 {
      for shift in 0..<9 {
        let bytes = (0..<count).map { _ in UInt8.random(in: 0...255, using: &random) }
        let padded = [UInt8](repeating: 0xEE, count: shift) + bytes + [0xEE, 0xEE]
        padded.withUnsafeBytes { raw in
          let own = UnsafeRawBufferPointer(rebasing: raw[shift..<(shift + count)])
          let head = KeyHead.ofBytes(own)
          XCTAssertEqual(head, plainHead(bytes), "\(bytes) seed \(random.seed)")
          XCTAssertEqual(KeyHead.length(head), min(count, 8))
          XCTAssertEqual(KeyHead.isWhole(head), count <= KeyHead.wholeLimit)
          XCTAssertTrue(KeyHead.isValid(head))
          KeyHead.withBytes(head) {
            XCTAssertEqual([UInt8]($0), Array(bytes.prefix(7)), "seed \(random.seed)")
          }
        }
      }
    }
    XCTAssertEqual(KeyHead.ofBytes(UnsafeRawBufferPointer(start: nil, count: 0)), 0)
  }

  func testZerosAtTheEndOfAKeyCount() {
    let heads = [[0x61], [0x61, 0], [0x61, 0, 0], [0x61, 0, 0, 1], [0x61, 1]].map { (bytes: [UInt8]) in
      bytes.withUnsafeBytes { KeyHead.ofBytes($0) }
    }
    XCTAssertEqual(heads, heads.sorted())
    XCTAssertEqual(Set(heads).count, heads.count)
  }

  func testBrokenHeadsAreKnownAndReadable() {
    XCTAssertFalse(KeyHead.isValid(9))
    XCTAssertFalse(KeyHead.isValid(0xFF))
    XCTAssertFalse(KeyHead.isValid(0x6100_0000_0000_0000))  // length 0 with a byte
    XCTAssertFalse(KeyHead.isValid(0x6161_0000_0000_0001))
    XCTAssertFalse(KeyHead.isValid(0x6161_6161_6161_6106))
    XCTAssertTrue(KeyHead.isValid(0x6161_6161_6161_6107))
    for broken: UInt64 in [9, 0xFF, .max] {
      XCTAssertEqual(KeyHead.length(broken), 8)
      XCTAssertEqual(KeyHead.withBytes(broken) { $0.count }, 7)
      XCTAssertNil(String(keyHead: broken))
    }
    XCTAssertNil(String(keyHead: 0x6161_0000_0000_0001))
    XCTAssertNil([UInt8](keyHead: 0x6161_6161_6161_6108), "a long key is not in its head")
  }
}
