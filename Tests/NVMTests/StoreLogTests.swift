import NVMBTree
import XCTest

@testable import NVM

/// The log of a transaction: what is written is read, and nothing else is believed.
final class StoreLogTests: XCTestCase {
  private let uuid = RegionUUID(high: 0x1234_5678_9ABC_DEF0, low: 0x0FED_CBA9_8765_4321)
  private let changes = [
    StoreLog.Change(tree: 2, key: [], value: []),
    StoreLog.Change(tree: 2, key: [1, 2, 3], value: nil),
    StoreLog.Change(tree: 3, key: Array("a longer key".utf8), value: [UInt8](repeating: 7, count: 100)),
  ]

  /// The log of changes given by trees.
  private func encode(_ changes: [StoreLog.Change], _ uuid: RegionUUID) throws -> [UInt8] {
    // Bytes that stay in place until the log is written.
    var copies: [UnsafeMutableRawBufferPointer] = []
    defer { for copy in copies { copy.deallocate() } }
    func keep(_ bytes: [UInt8]) -> UnsafeRawBufferPointer {
      let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 8)
      copy.copyBytes(from: bytes)
      copies.append(copy)
      return UnsafeRawBufferPointer(copy)
    }
    let trees = Set(changes.map(\.tree)).sorted().map { tree in
      TreeChanges(
        number: tree,
        changes: changes.filter { $0.tree == tree }
          .map { EncodedChange(key: keep($0.key), value: $0.value.map(keep)) })
    }
    return try StoreLog.encode(trees, uuid)
  }

  private func decode(_ bytes: [UInt8], _ uuid: RegionUUID) -> [StoreLog.Change]? {
    bytes.withUnsafeBytes { StoreLog.decode($0, uuid) }
  }

  func testRoundTrip() throws {
    XCTAssertEqual(decode(try encode(changes, uuid), uuid), changes)
    XCTAssertEqual(decode(try encode([], uuid), uuid), [])
  }

  func testNothingElseIsBelieved() throws {
    let bytes = try encode(changes, uuid)
    for bit in 0..<bytes.count * 8 {
      var flipped = bytes
      flipped[bit / 8] ^= 1 << UInt8(bit % 8)
      XCTAssertNil(decode(flipped, uuid), "bit \(bit)")
    }
    for length in 0..<bytes.count { XCTAssertNil(decode(Array(bytes[..<length]), uuid), "length \(length)") }
    XCTAssertNil(decode(bytes + [0], uuid))
    XCTAssertNil(decode([UInt8](repeating: 0, count: 200), uuid))
    XCTAssertNil(decode(bytes, RegionUUID(high: uuid.high, low: uuid.low ^ 1)), "another file's")
  }

  /// Lengths that lead outside are refused where the checksum matches, too.
  func testForgedLengths() throws {
    let bytes = try encode(changes, uuid)
    for at in stride(from: StoreLog.headerSize, to: bytes.count, by: 4) {
      for value in [0, 1, 0x7FFF_FFFF, 0xFFFF_FFFF] as [UInt32] {
        var forged = bytes
        withUnsafeBytes(of: value) {
          forged.replaceSubrange(at..<min(at + 4, forged.count), with: $0.prefix(forged.count - at))
        }
        StoreLog.seal(&forged, uuid)
        // Whatever it is read as, it lies inside.
        for change in decode(forged, uuid) ?? [] {
          XCTAssertLessThanOrEqual(change.key.count + (change.value?.count ?? 0), bytes.count)
        }
      }
    }
  }

  func testCatalogueEntries() throws {
    let entry = CatalogueEntry(
      keyForm: .word, valueForm: .bytes, number: 77, handle: Offset(4096), keyTypeName: "UInt32",
      valueTypeName: "größer")
    let bytes = try entry.withValueBytes { (bytes) throws(NVMError) -> [UInt8] in [UInt8](bytes) }
    XCTAssertEqual(bytes.withUnsafeBytes { CatalogueEntry(valueBytes: $0) }, entry)
    for length in 0..<bytes.count {
      XCTAssertNil(bytes[..<length].withUnsafeBytes { CatalogueEntry(valueBytes: $0) }, "length \(length)")
    }
    for (at, value) in [(0, 1), (1, 2), (2, 2), (3, 9), (16, 200), (18, 0), (19, 1)] as [(Int, UInt8)] {
      var wrong = bytes
      wrong[at] = value
      XCTAssertNil(wrong.withUnsafeBytes { CatalogueEntry(valueBytes: $0) }, "byte \(at)")
    }
  }
}
