import Glibc
import NVMRegion
import XCTest

/// The two superblock copies: either one carries the file alone; what a broken or foreign header says is
/// never believed.
final class SuperblockTests: RegionTestCase {
  private let options = RegionOptions(media: .emulated)
  private let readOnly = RegionOptions(media: .emulated, access: .readOnly)

  /// A closed file with one grown-into word, as an image.
  private func makeImage() throws -> Image {
    let path = memoryPath("origin")
    let region = try PersistentRegion.create(at: path, size: 1 << 16, options: options)
    try region.storeDurable(123, at: region.payloadStart)
    try region.close()
    defer { unlink(path) }
    return Image(bytes: try bytes(of: path))
  }

  private func open(_ image: Image, _ options: RegionOptions? = nil) throws -> PersistentRegion {
    try put(image.bytes, at: memoryPath())
    return try PersistentRegion.open(at: memoryPath(), options: options ?? self.options)
  }

  /// Opens as reader and as writer, checks the content, and that a writable opening mends both copies.
  private func assertCarries(_ image: Image, _ what: String, line: UInt = #line) throws {
    do {
      let reader = try open(image, readOnly)
      XCTAssertEqual(reader.load(reader.payloadStart), 123, what, line: line)
      try reader.close()
      XCTAssertEqual(try bytes(of: memoryPath()), image.bytes, "a read-only open wrote: \(what)", line: line)
      let writer = try open(image)
      XCTAssertEqual(writer.load(writer.payloadStart), 123, what, line: line)
      try writer.close()
      let mended = Image(bytes: try bytes(of: memoryPath()))
      for copy in 0..<2 {
        var single = mended
        for i in 0..<256 { single.bytes[(1 - copy) * 4096 + i] = 0 }
        let again = try open(single, readOnly)
        XCTAssertTrue(again.wasCleanlyClosed, what, line: line)
        try again.close()
      }
    } catch {
      XCTFail("\(what): \(error)", line: line)
    }
  }

  func testBothCopiesHoldAndDifferBySequence() throws {
    let image = try makeImage()
    let a = image.u64(Image.sequence)
    let b = image.u64(4096 + Image.sequence)
    XCTAssertEqual(max(a, b) - min(a, b), 1)
    XCTAssertEqual(image.bytes[0..<8], ArraySlice("swiftNVM".utf8))
  }

  func testEachCopyZeroedOrFilled() throws {
    let image = try makeImage()
    for copy in 0..<2 {
      for byte in [0, 0xFF] as [UInt8] {
        var damaged = image
        for i in 0..<4096 { damaged.bytes[copy * 4096 + i] = byte }
        try assertCarries(damaged, "copy \(copy) all \(byte)")
      }
    }
  }

  func testEachCopyTornAtEveryWord() throws {
    // A torn write mixes the words of two states of one copy.
    let image = try makeImage()
    let region = try open(image)
    region.abandon()
    let later = Image(bytes: try bytes(of: memoryPath()))
    for copy in 0..<2 {
      for cut in stride(from: 8, to: 256, by: 8) {
        for front in [true, false] {
          var torn = image
          for i in 0..<256 where (i < cut) == front {
            torn.bytes[copy * 4096 + i] = later.bytes[copy * 4096 + i]
          }
          let reader = try open(torn, readOnly)
          XCTAssertEqual(reader.load(reader.payloadStart), 123)
          try reader.close()
        }
      }
    }
  }

  func testEveryBitOfEachCopyFlipped() throws {
    let image = try makeImage()
    try put(image.bytes, at: memoryPath())
    let fd = Glibc.open(memoryPath(), O_RDWR)
    defer { Glibc.close(fd) }
    for copy in 0..<2 {
      for bit in 0..<256 * 8 {
        let at = copy * 4096 + bit / 8
        var byte = image.bytes[at] ^ UInt8(1 << (bit % 8))
        XCTAssertEqual(pwrite(fd, &byte, 1, at), 1)
        do {
          let reader = try PersistentRegion.open(at: memoryPath(), options: readOnly)
          XCTAssertEqual(reader.load(reader.payloadStart), 123)
          XCTAssertEqual(reader.size, 1 << 16)
          try reader.close()
        } catch {
          XCTFail("copy \(copy) bit \(bit): \(error)")
        }
        byte = image.bytes[at]
        XCTAssertEqual(pwrite(fd, &byte, 1, at), 1)
        if bit % 64 == 5 {
          var damaged = image
          damaged.bytes[at] ^= UInt8(1 << (bit % 8))
          try assertCarries(damaged, "copy \(copy) bit \(bit)")
          try put(image.bytes, at: memoryPath("unused"))
          XCTAssertEqual(
            image.bytes.withUnsafeBytes { pwrite(fd, $0.baseAddress!, $0.count, 0) }, image.bytes.count)
        }
      }
    }
  }

  func testBothCopiesDamaged() throws {
    let image = try makeImage()
    for (first, second) in [(100, 100), (64, 72), (56, 248), (16, 247)] {
      var damaged = image
      damaged.bytes[first] ^= 4
      damaged.bytes[4096 + second] ^= 1
      assertThrows(.corrupt, path: memoryPath(), mentioning: "backup") { try open(damaged) }
      assertThrows(.corrupt, path: memoryPath()) { try open(damaged, readOnly) }
      XCTAssertEqual(try bytes(of: memoryPath()), damaged.bytes, "a refused file was changed")
    }
    var damaged = image
    for i in 0..<4096 { damaged.bytes[i] = 0 }
    damaged.bytes[4096 + 70] ^= 1
    assertThrows(.corrupt, path: memoryPath()) { try open(damaged) }
  }

  func testNewerVersionAndFeatures() throws {
    let image = try makeImage()
    var newer = image
    for copy in 0..<2 { newer.forge(copy: copy, Image.version, UInt32(7)) }
    assertThrows(.newerFormat, path: memoryPath(), mentioning: "format version 7") { try open(newer) }
    assertThrows(.newerFormat, path: memoryPath()) { try open(newer, readOnly) }
    // A newer release that checks its superblock otherwise.
    for copy in 0..<2 { newer.set(UInt32(0), at: copy * 4096 + Image.checksum) }
    assertThrows(.newerFormat, path: memoryPath()) { try open(newer) }

    var feature = image
    for copy in 0..<2 { feature.forge(copy: copy, Image.incompatible, UInt64(0x10)) }
    assertThrows(.newerFormat, path: memoryPath(), mentioning: "0x10") { try open(feature) }

    var readable = image
    for copy in 0..<2 { readable.forge(copy: copy, Image.readOnlyCompatible, UInt64(1) << 63) }
    assertThrows(.newerFormat, path: memoryPath(), mentioning: "read-only") { try open(readable) }
    let reader = try open(readable, readOnly)
    XCTAssertEqual(reader.load(reader.payloadStart), 123)
    try reader.close()

    var compatible = image
    for copy in 0..<2 { compatible.forge(copy: copy, 16, UInt64(1)) }
    let writer = try open(compatible)
    try writer.close()
    let kept = Image(bytes: try bytes(of: memoryPath()))
    XCTAssertEqual(kept.u64(16), 1, "an unknown compatible feature was dropped")
  }

  /// A newer release that was interrupted between the copies: its copy holds, so the old one is not believed.
  func testHalfDoneUpgradeIsNotOpenedAsOld() throws {
    let image = try makeImage()
    for (field, value) in [(Image.incompatible, UInt64(2)), (Image.version, 1)] {
      var half = image
      let newest = image.newest
      if field == Image.version {
        half.forge(copy: newest, field, UInt32(value))
      } else {
        half.forge(copy: newest, field, value)
      }
      assertThrows(.newerFormat, path: memoryPath()) { try open(half) }
      // The older copy being the newer format's says nothing: the newest one holds.
      half = image
      half.forge(copy: 1 - newest, field, value)
      let region = try open(half, readOnly)
      try region.close()
    }
  }

  func testForeignByteOrder() throws {
    var image = try makeImage()
    for copy in 0..<2 {
      let at = copy * 4096
      for field in [at..<at + 8, at + 12..<at + 16] {
        image.bytes.replaceSubrange(field, with: Array(image.bytes[field].reversed()))
      }
    }
    assertThrows(.foreignByteOrder, path: memoryPath(), mentioning: "byte order") { try open(image) }
    // The magic is bytes, so it reads alike; the mark alone tells.
    for copy in 0..<2 {
      let at = copy * 4096
      image.bytes.replaceSubrange(at..<at + 8, with: Array("swiftNVM".utf8))
    }
    assertThrows(.foreignByteOrder, path: memoryPath()) { try open(image) }
  }

  /// A right checksum does not make a wrong number harmless.
  func testForgedNumbers() throws {
    let image = try makeImage()
    for (field, value, code) in [
      (Image.size, 1 << 40, NVMError.Code.truncated), (Image.size, 1 << 16 + 4096, .truncated),
      (Image.size, 0, .corrupt), (Image.size, 4097, .corrupt), (Image.size, 8192, .corrupt),
      (Image.size, UInt64.max, .corrupt), (Image.size, 1 << 63, .corrupt),
      (Image.size, UInt64(Int.max) - 4095, .corrupt),
      (Image.payload, 0, .corrupt), (Image.payload, 4096, .corrupt), (Image.payload, 8193, .corrupt),
      (Image.payload, 1 << 16, .corrupt), (Image.payload, UInt64.max & ~4095, .corrupt),
      (Image.sequence, UInt64.max, .corrupt), (Image.sequence, UInt64.max - 1, .corrupt),
      (Image.incarnation, UInt64.max, .corrupt),
    ] as [(Int, UInt64, NVMError.Code)] {
      var forged = image
      for copy in 0..<2 { forged.forge(copy: copy, field, value) }
      assertThrows(code, path: memoryPath()) { try open(forged) }
      assertThrows(code, path: memoryPath()) { try open(forged, readOnly) }
      XCTAssertEqual(try bytes(of: memoryPath()), forged.bytes)
    }
    // A size below the file's: opened as it says, the rest left alone.
    var shorter = image
    for copy in 0..<2 { shorter.forge(copy: copy, Image.size, UInt64(1 << 15)) }
    let region = try open(shorter)
    XCTAssertEqual(region.size, 1 << 15)
    try region.close()
    XCTAssertEqual(fileSize(memoryPath()), 1 << 16)
    // A medium that nobody knows.
    var medium = image
    for copy in 0..<2 { medium.forge(copy: copy, Image.media, UInt32(99)) }
    try open(medium, readOnly).close()
    try open(medium).close()
  }

  func testCopyOfAnotherFileIsNotBelieved() throws {
    let image = try makeImage()
    let other = try makeImage()
    for copy in 0..<2 {
      for sequence in [UInt64(1), 100] {
        var spliced = image
        spliced.bytes.replaceSubrange(
          copy * 4096..<copy * 4096 + 256, with: other.bytes[copy * 4096..<copy * 4096 + 256])
        spliced.forge(copy: copy, Image.sequence, sequence)
        assertThrows(.corrupt, path: memoryPath(), mentioning: "two different files") { try open(spliced) }
      }
    }
    // The copies swapped say the same.
    var swapped = image
    swapped.bytes.replaceSubrange(0..<256, with: image.bytes[4096..<4096 + 256])
    swapped.bytes.replaceSubrange(4096..<4096 + 256, with: image.bytes[0..<256])
    try assertCarries(swapped, "swapped")
  }

  func testRandomHeaders() throws {
    let image = try makeImage()
    var generator = SeededGenerator(seed: .random(in: 0 ... .max))
    for _ in 0..<500 {
      var mutated = image
      for _ in 0..<Int.random(in: 1...40, using: &generator) {
        mutated.bytes[Int.random(in: 0..<8192, using: &generator)] = .random(
          in: 0 ... .max, using: &generator)
      }
      do {
        let region = try open(mutated, readOnly)
        XCTAssertEqual(region.load(region.payloadStart), 123, "seed \(generator.seed)")
        try region.close()
      } catch let error as NVMError {
        XCTAssertTrue(
          [.corrupt, .notARegion, .newerFormat, .foreignByteOrder].contains(error.code),
          "seed \(generator.seed): \(error)")
      }
    }
  }
}
