import CNVM
import Glibc
import NVMRegion
import XCTest

final class OpenCloseTests: RegionTestCase {
  func testCreateWriteReopen() throws {
    for (path, options) in everyMedium {
      let region = try PersistentRegion.create(at: path, size: 1 << 20, options: options)
      XCTAssertEqual(region.sizeWithoutJournal, 1 << 20)
      XCTAssertEqual(fileSize(path), region.size)
      XCTAssertEqual(region.path, path)
      XCTAssertEqual(region.incarnation, 1)
      XCTAssertTrue(region.wasCleanlyClosed, "a new file counts as cleanly closed")
      XCTAssertFalse(region.isReadOnly)
      XCTAssertEqual(
        region.payloadStart,
        Offset(PersistentRegion.minimumSize - 4096 + (options.media == .journaledFile ? 1 << 20 : 0)))
      XCTAssertEqual(Int(bitPattern: region.baseAddress) % (2 << 20), 0)
      XCTAssertEqual(region.load(region.payloadStart), 0)
      let at = region.payloadStart + 640
      region.store(0x1122_3344_5566_7788, at: at)
      try region.persist(at, count: 8)
      let uuid = region.uuid
      try region.close()
      for round in 2...4 {
        let again = try PersistentRegion.open(at: path, options: options)
        XCTAssertEqual(again.load(at), 0x1122_3344_5566_7788)
        XCTAssertEqual(again.uuid, uuid)
        XCTAssertEqual(again.incarnation, UInt64(round))
        XCTAssertTrue(again.wasCleanlyClosed)
        XCTAssertEqual(
          again.media,
          options.media == .emulated
            ? .emulated : options.media == .journaledFile ? .journaledFile : .inPlaceFile)
        try again.close()
      }
    }
  }

  func testAbandonAndDropAreNotClean() throws {
    for (path, options) in everyMedium {
      let region = try PersistentRegion.create(at: path, size: 1 << 16, options: options)
      try region.storeDurable(5, at: region.payloadStart)
      region.abandon()
      do {
        let again = try PersistentRegion.open(at: path, options: options)
        XCTAssertFalse(again.wasCleanlyClosed)
        XCTAssertEqual(again.load(again.payloadStart), 5)
        // Dropped without close.
      }
      let third = try PersistentRegion.open(at: path, options: options)
      XCTAssertFalse(third.wasCleanlyClosed)
      try third.close()
      let fourth = try PersistentRegion.open(at: path, options: options)
      XCTAssertTrue(fourth.wasCleanlyClosed)
      XCTAssertEqual(fourth.incarnation, 4)
      try fourth.close()
    }
  }

  func testOddSizesAreRoundedUpAndTooSmallOrLargeRefused() throws {
    let region = try PersistentRegion.create(at: memoryPath(), size: 12_289)
    XCTAssertEqual(region.sizeWithoutJournal, 16_384)
    try region.close()
    for size in [Int.min, -1, 0, 1, PersistentRegion.minimumSize - 1, 1 << 47 + 1, Int.max] {
      assertThrows(.invalidArgument, path: memoryPath("x"), mentioning: "\(PersistentRegion.minimumSize)") {
        try PersistentRegion.create(at: memoryPath("x"), size: size)
      }
    }
    XCTAssertEqual(names(in: memoryDirectory), ["r.nvm"])
    let least = try PersistentRegion.create(at: memoryPath("y"), size: PersistentRegion.minimumSize)
    XCTAssertTrue(least.contains(least.payloadStart, count: 4096))
    XCTAssertFalse(least.contains(least.payloadStart, count: 4097))
    XCTAssertFalse(least.contains(.null, count: 8))
    XCTAssertFalse(least.contains(least.payloadStart, count: -1))
    XCTAssertFalse(least.contains(Offset(rawValue: .max), count: 1))
    XCTAssertFalse(least.contains(least.payloadStart, count: .max))
    XCTAssertTrue(least.contains(least.end, count: 0))
    try least.close()
  }

  func testOptionsOutOfRangeDoNotTrap() throws {
    for (reservation, maximum) in [
      (Int.max, nil), (Int.min, nil), (0, nil), (-5, Int.max), (1 << 30, Int.min), (1 << 30, 0),
      (1 << 30, 20_000),
      (Int.max, Int.max),
    ] as [(Int, Int?)] {
      var options = RegionOptions(media: .emulated)
      options.reservation = reservation
      options.maximumSize = maximum
      let path = memoryPath("options")
      let region = try PersistentRegion.create(at: path, size: 1 << 16, options: options)
      XCTAssertGreaterThanOrEqual(region.maximumSize, region.size, "\(reservation) \(maximum ?? -1)")
      XCTAssertEqual(region.maximumSize % 4096, 0)
      region.store(1, at: region.end - 8)
      try region.close()
      unlink(path)
    }
  }

  func testUseAfterCloseIsAnError() throws {
    for (path, options) in everyMedium {
      let region = try PersistentRegion.create(at: path, size: 1 << 16, options: options)
      try region.close()
      try region.close()
      region.abandon()
      assertThrows(.closed, path: path) { try region.checkUsable() }
      assertThrows(.closed, path: path) { try region.checkWritable() }
      assertThrows(.closed, path: path) { try region.grow(toAtLeast: 1 << 20) }
      // A late access harms neither the process nor the file, and is never acknowledged.
      let before = try bytes(of: path)
      region.store(1, at: region.payloadStart)
      region.fill(region.payloadStart, count: 4096, with: 7)
      region.flush(region.payloadStart, count: 4096)
      assertThrows(.closed, path: path) { try region.fence() }
      assertThrows(.closed, path: path) { try region.order() }
      assertThrows(.closed, path: path) { try region.persist(region.payloadStart, count: 8) }
      assertThrows(.closed, path: path) { try region.storeDurable(3, at: region.payloadStart) }
      XCTAssertEqual(try bytes(of: path), before)
    }
  }

  /// What a thread flushed but did not fence before `close` reaches the medium before the clean mark does.
  func testCloseFencesBeforeItMarksTheFileClean() throws {
    let options = RegionOptions(media: .inPlaceFile)
    let region = try PersistentRegion.create(at: path(), size: 1 << 16, options: options)
    region.store(1, at: region.payloadStart)
    region.flush(region.payloadStart, count: 8)
    // The first sync of close fails: it must have been that of the data, so the file is not clean.
    let hit = SystemCall.withFault(.init(call: .msync, skip: 0, errno: EIO)) {
      assertThrows(.ioFailure, path: path()) { try region.close() }
    }
    XCTAssertTrue(hit)
    let again = try PersistentRegion.open(at: path(), options: options)
    XCTAssertFalse(again.wasCleanlyClosed)
    try again.close()
  }

  func testReadOnlyOpenNeverChangesTheFile() throws {
    for (path, options) in everyMedium {
      let region = try PersistentRegion.create(at: path, size: 1 << 16, options: options)
      try region.storeDurable(5, at: region.payloadStart)
      region.abandon()
      let before = try bytes(of: path)
      let first = try PersistentRegion.open(
        at: path, options: RegionOptions(media: options.media, access: .readOnly))
      let second = try PersistentRegion.open(
        at: path, options: RegionOptions(media: .automatic, access: .readOnly))
      XCTAssertTrue(first.isReadOnly)
      XCTAssertFalse(first.wasCleanlyClosed)
      XCTAssertEqual(first.incarnation, 1)
      XCTAssertEqual(first.maximumSize, first.size)
      assertThrows(.readOnly, path: path) { try first.checkWritable() }
      assertThrows(.readOnly, path: path) { try first.grow(toAtLeast: 1 << 20) }
      try first.checkUsable()
      // Recovery may store; it stays private.
      for offset in stride(from: 0, to: first.size, by: 8) { first.store(UInt64.max, at: Offset(offset)) }
      first.flush(.null, count: first.size)
      try first.fence()
      try first.order()
      try first.storeDurable(17, at: first.payloadStart)
      XCTAssertEqual(first.load(first.payloadStart), 17)
      XCTAssertEqual(second.load(second.payloadStart), 5)
      assertThrows(.locked, path: path, mentioning: "by another handle of this process") {
        try PersistentRegion.open(at: path, options: options)
      }
      try first.close()
      try second.close()
      XCTAssertEqual(try bytes(of: path), before)
      let again = try PersistentRegion.open(at: path, options: options)
      assertThrows(.locked, path: path) {
        try PersistentRegion.open(at: path, options: RegionOptions(media: .automatic, access: .readOnly))
      }
      XCTAssertEqual(again.load(again.payloadStart), 5)
      try again.close()
    }
    assertThrows(.invalidArgument, path: path("n")) {
      try PersistentRegion.create(
        at: path("n"), size: 1 << 16, options: RegionOptions(media: .automatic, access: .readOnly))
    }
  }

  func testOpenOrCreate() throws {
    let path = memoryPath()
    let first = try PersistentRegion.openOrCreate(at: path, size: 1 << 16)
    try first.storeDurable(9, at: first.payloadStart)
    assertThrows(.locked, path: path) { try PersistentRegion.openOrCreate(at: path, size: 1 << 16) }
    try first.close()
    let second = try PersistentRegion.openOrCreate(at: path, size: 1 << 20)
    XCTAssertEqual(second.sizeWithoutJournal, 1 << 16)
    XCTAssertEqual(second.load(second.payloadStart), 9)
    try second.close()
    assertThrows(.notFound, path: memoryPath("none")) {
      try PersistentRegion.openOrCreate(
        at: memoryPath("none"), size: 1 << 16, options: .init(media: .automatic, access: .readOnly))
    }
  }

  /// `initialize` runs before the file has a name, and its failure leaves none.
  func testInitializeIsPartOfCreation() throws {
    for (path, options) in everyMedium {
      assertThrows(.unsupported, path: nil) {
        try PersistentRegion.create(at: path, size: 1 << 16, options: options) { (region) throws(NVMError) in
          XCTAssertEqual(fileSize(path), -1)
          region.store(1, at: region.payloadStart)
          throw NVMError(code: .unsupported, message: "No.")
        }
      }
      XCTAssertEqual(fileSize(path), -1)
      let region = try PersistentRegion.create(at: path, size: 1 << 16, options: options) {
        (region) throws(NVMError) in
        try region.storeDurable(1, at: region.payloadStart)
      }
      XCTAssertEqual(region.load(region.payloadStart), 1)
      try region.close()
    }
    XCTAssertEqual(names(in: directory), ["i.nvm", "j.nvm"])
    // Somebody else creates the file meanwhile: theirs is kept.
    assertThrows(.alreadyExists, path: path()) {
      try PersistentRegion.create(at: path(), size: 1 << 16) { (_) throws(NVMError) in
        try! put([1, 2, 3], at: self.path())
      }
    }
    XCTAssertEqual(try bytes(of: path()), [1, 2, 3])
  }

  func testPermissionsOfANewFile() throws {
    var options = RegionOptions(media: .emulated)
    options.permissions = 0o600
    try PersistentRegion.create(at: memoryPath(), size: 1 << 16, options: options).close()
    var info = stat()
    XCTAssertEqual(lstat(memoryPath(), &info), 0)
    XCTAssertEqual(info.st_mode & 0o777, 0o600)
  }

  func testInMemoryRegion() throws {
    let region = try PersistentRegion.inMemory(image: nil, size: 1 << 16, maximumSize: 1 << 20, medium: nil)
    try region.storeDurable(77, at: region.payloadStart)
    try region.grow(toAtLeast: 1 << 17)
    let image = UnsafeRawBufferPointer(start: region.baseAddress, count: region.size)
    let copy = try PersistentRegion.inMemory(image: image, size: 0, maximumSize: 1 << 20, medium: nil)
    XCTAssertEqual(copy.size, 1 << 17)
    XCTAssertEqual(copy.load(copy.payloadStart), 77)
    XCTAssertEqual(copy.incarnation, 2)
    XCTAssertFalse(copy.wasCleanlyClosed)
    assertThrows(.truncated, path: "(memory)") {
      try PersistentRegion.inMemory(
        image: UnsafeRawBufferPointer(rebasing: image[..<(1 << 16)]), size: 0, maximumSize: 0, medium: nil)
    }
    try region.close()
    try copy.close()
  }

  /// A copy that has holes where zeroes stood gets room for them when it is opened: later a store to one could find the
  /// disk full. Where there is none, it is not opened, and left as it was.
  func testHolesOfASparseCopyAreFilled() throws {
    for (path, options) in everyMedium {
      let region = try PersistentRegion.create(at: path, size: 8 << 20, options: options)
      try region.storeDurable(42, at: region.payloadStart + (6 << 20))
      try region.close()
      let size = fileSize(path)
      func blocks(_ path: String) -> Int {
        var info = stat()
        return stat(path, &info) == 0 ? Int(info.st_blocks) * 512 : -1
      }
      XCTAssertGreaterThanOrEqual(blocks(path), size)
      // Only the blocks that are not zero.
      let content = try XCTUnwrap(FileManager.default.contents(atPath: path))
      let copy = path + ".copy"
      let fd = open(copy, O_RDWR | O_CREAT, 0o600)
      XCTAssertEqual(ftruncate(fd, size), 0)
      for at in stride(from: 0, to: size, by: 4096) where content[at..<at + 4096].contains(where: { $0 != 0 })
      {
        XCTAssertEqual(content[at..<at + 4096].withUnsafeBytes { pwrite(fd, $0.baseAddress, 4096, at) }, 4096)
      }
      close(fd)
      XCTAssertLessThan(blocks(copy), size)
      let isFull = SystemCall.Fault(call: .allocate, skip: 0, errno: ENOSPC)
      let happened = try SystemCall.withFault(isFull) {
        XCTAssertThrowsError(try PersistentRegion.open(at: copy, options: options)) {
          XCTAssertEqual(($0 as? NVMError)?.code, .diskFull)
        }
      }
      XCTAssert(happened)
      XCTAssertEqual(FileManager.default.contents(atPath: copy), content)
      // Where the file system cannot say, as before.
      let isUnknown = SystemCall.Fault(call: .allocate, skip: 0, errno: EOPNOTSUPP)
      _ = try SystemCall.withFault(isUnknown) {
        try PersistentRegion.open(at: copy, options: options).close()
      }
      XCTAssertLessThan(blocks(copy), size)
      let again = try PersistentRegion.open(at: copy, options: options)
      XCTAssertGreaterThanOrEqual(blocks(copy), size)
      XCTAssertEqual(again.load(again.payloadStart + (6 << 20)), 42)
      try again.close()
    }
  }
}
