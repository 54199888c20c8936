import Foundation
import NVMRegion
import XCTest

/// What the outside world can put in the way of open and create: each a typed error naming path and
/// remedy, the file left as it was, nothing left behind.
final class BadInputTests: RegionTestCase {
  private let options = RegionOptions(media: .emulated)
  private let readOnly = RegionOptions(media: .emulated, access: .readOnly)

  private func assertRefused(_ code: NVMError.Code, _ content: [UInt8], line: UInt = #line) throws {
    let path = memoryPath("content")
    try put(content, at: path)
    assertThrows(code, path: path, line: line) { try PersistentRegion.open(at: path, options: options) }
    assertThrows(code, path: path, line: line) { try PersistentRegion.open(at: path, options: readOnly) }
    assertThrows(.alreadyExists, path: path, line: line) {
      try PersistentRegion.create(at: path, size: 1 << 16)
    }
    assertThrows(code, path: path, line: line) {
      try PersistentRegion.openOrCreate(at: path, size: 1 << 16, options: options)
    }
    XCTAssertEqual(try bytes(of: path), content, line: line)
    XCTAssertEqual(names(in: memoryDirectory), ["content"], line: line)
  }

  func testMissingFileAndDirectory() throws {
    assertThrows(.notFound, path: path("none"), mentioning: "Create it") {
      try PersistentRegion.open(at: path("none"))
    }
    let deep = path("no/such/dir/file")
    for body in [
      { _ = try PersistentRegion.open(at: deep) },
      { _ = try PersistentRegion.create(at: deep, size: 1 << 16) },
      { _ = try PersistentRegion.openOrCreate(at: deep, size: 1 << 16) },
    ] as [() throws -> Void] {
      assertThrows(.notFound, path: deep, mentioning: path("no/such/dir"), "Create it first") { try body() }
    }
    try put([1], at: path("plain"))
    let under = path("plain/file")
    assertThrows(.notFound, path: under) { try PersistentRegion.open(at: under) }
    assertThrows(.notFound, path: under) { try PersistentRegion.create(at: under, size: 1 << 16) }
    assertThrows(.notFound, path: nil) { try PersistentRegion.open(at: "") }
    XCTAssertEqual(names(in: directory), ["plain"])
  }

  func testDirectoryAndOtherThingsAsPath() throws {
    for path in [directory, directory + "/", "/"] {
      assertThrows(.notAFile, path: path, mentioning: "directory") { try PersistentRegion.open(at: path) }
      assertThrows(.notAFile, path: path) { try PersistentRegion.open(at: path, options: readOnly) }
      assertThrows(.notAFile, path: path) { try PersistentRegion.create(at: path, size: 1 << 16) }
    }
    let fifo = path("fifo")
    XCTAssertEqual(mkfifo(fifo, 0o600), 0)
    assertThrows(.notAFile, path: fifo) { try PersistentRegion.open(at: fifo) }
    assertThrows(.notAFile, path: fifo) { try PersistentRegion.open(at: fifo, options: readOnly) }
    assertThrows(.notAFile, path: "/dev/null") { try PersistentRegion.open(at: "/dev/null") }
    let long = directory + "/" + String(repeating: "x", count: 300)
    assertThrows(.system, path: long) { try PersistentRegion.open(at: long) }
    assertThrows(.system, path: long) { try PersistentRegion.create(at: long, size: 1 << 16) }
    // A path cannot hold NUL: cut there, it would name another file.
    let region = try PersistentRegion.create(at: path(), size: 1 << 16)
    try region.close()
    assertThrows(.invalidArgument, path: path()) { try PersistentRegion.open(at: path() + "\0x") }
    assertThrows(.invalidArgument, path: path("y")) {
      try PersistentRegion.create(at: path("y") + "\0x", size: 1 << 16)
    }
    // A link to a region is the region; a link to nowhere is not found, and nothing is created through it.
    try FileManager.default.createSymbolicLink(atPath: path("link"), withDestinationPath: path())
    try PersistentRegion.open(at: path("link")).close()
    try FileManager.default.createSymbolicLink(atPath: path("dangling"), withDestinationPath: path("nowhere"))
    assertThrows(.notFound, path: path("dangling")) { try PersistentRegion.open(at: path("dangling")) }
    assertThrows(.alreadyExists, path: path("dangling")) {
      try PersistentRegion.create(at: path("dangling"), size: 1 << 16)
    }
    XCTAssertEqual(names(in: directory), ["dangling", "fifo", "link", "r.nvm"])
  }

  func testForeignEmptyAndShortFiles() throws {
    try assertRefused(.notARegion, [])
    try assertRefused(.notARegion, [0])
    try assertRefused(.notARegion, Array("swiftNV".utf8))
    try assertRefused(.notARegion, Array("SQLite format 3\0".utf8))
    try assertRefused(.notARegion, [UInt8](repeating: 0, count: 1 << 16))
    try assertRefused(.notARegion, [UInt8](repeating: 0xFF, count: 12_345))
    var generator = SeededGenerator(seed: 1)
    try assertRefused(.notARegion, (0..<10_000).map { _ in .random(in: 0 ... .max, using: &generator) })
  }

  func testTruncatedAtEveryKindOfPlace() throws {
    let path = memoryPath("origin")
    let region = try PersistentRegion.create(at: path, size: 1 << 16, options: options)
    try region.close()
    let whole = try bytes(of: path)
    unlink(path)
    for count in [8, 100, 255, 256, 257, 4095, 4096, 4097, 4096 + 255, 8192, 12_288, 65_535] {
      try assertRefused(.truncated, Array(whole[..<count]))
    }
    // Longer than it says is what a crash in growth leaves.
    try put(whole + [1, 2, 3], at: memoryPath("content"))
    try PersistentRegion.open(at: memoryPath("content"), options: options).close()
    XCTAssertEqual(fileSize(memoryPath("content")), whole.count + 3)
  }

  func testNoPermission() throws {
    guard getuid() == 0 else { throw XCTSkip("dropping privileges in a child needs root") }
    chmod(memoryDirectory, 0o755)
    let path = memoryPath()
    let region = try PersistentRegion.create(at: path, size: 1 << 16, options: options)
    try region.close()
    chmod(path, 0o600)
    func nobody(_ command: String, _ path: String) throws -> String {
      try helper("--uid", "65534", command, path)
    }
    for command in ["open", "read"] {
      let line = try nobody(command, path)
      XCTAssertTrue(line.hasPrefix("error permissionDenied: \(path): "), line)
    }
    chmod(path, 0o644)
    let line = try nobody("open", path)
    XCTAssertTrue(line.hasPrefix("error permissionDenied: ") && line.contains("read-only"), line)
    XCTAssertTrue(try nobody("read", path).hasPrefix("ok "))
    let create = try nobody("create", memoryPath("new"))
    XCTAssertTrue(create.hasPrefix("error permissionDenied: ") && create.contains(memoryDirectory), create)
    XCTAssertEqual(names(in: memoryDirectory), ["r.nvm"])
  }

  func testReadOnlyFileSystem() throws {
    let at = try mountTmpfs("size=1m")
    let path = at + "/r.nvm"
    let region = try PersistentRegion.create(at: path, size: 1 << 16, options: options)
    try region.storeDurable(5, at: region.payloadStart)
    region.abandon()
    try remountReadOnly(at)
    assertThrows(.readOnlyFileSystem, path: path, mentioning: "read-only") {
      try PersistentRegion.open(at: path, options: options)
    }
    assertThrows(.readOnlyFileSystem, path: at + "/n") {
      try PersistentRegion.create(at: at + "/n", size: 1 << 16)
    }
    let reader = try PersistentRegion.open(at: path, options: readOnly)
    XCTAssertEqual(reader.load(reader.payloadStart), 5)
    reader.store(6, at: reader.payloadStart)
    try reader.close()
  }

  func testFullDiskAtCreation() throws {
    let at = try mountTmpfs("size=256k,nr_inodes=50")
    for size in [1 << 20, 1 << 18 + 4096, 1 << 40] {
      let error = assertThrows(.diskFull, path: at + "/r.nvm", mentioning: "Free some space") {
        try PersistentRegion.create(at: at + "/r.nvm", size: size, options: options)
      }
      XCTAssertEqual(error?.errno, ENOSPC)
      XCTAssertEqual(names(in: at), [])
    }
    // Nothing was kept by the failures.
    try PersistentRegion.create(at: at + "/r.nvm", size: 1 << 18, options: options).close()
  }

  /// ext4 leaves a file extended when it cannot allocate: it is cut back.
  func testFullDiskOnAFileSystemThatExtendsFirst() throws {
    let at = try mountExt4()
    let kept = names(in: at)
    let path = at + "/r.nvm"
    assertThrows(.diskFull, path: path) { try PersistentRegion.create(at: path, size: 64 << 20) }
    XCTAssertEqual(names(in: at), kept)
    let region = try PersistentRegion.create(
      at: path, size: 1 << 16, options: RegionOptions(media: .inPlaceFile))
    for size in [64 << 20, 8 << 20] {
      assertThrows(.diskFull, path: path) { try region.grow(toAtLeast: size) }
      XCTAssertEqual(fileSize(path), 1 << 16)
    }
    try region.grow(toAtLeast: 1 << 20)
    try region.storeDurable(3, at: region.end - 8)
    try region.close()
    let again = try PersistentRegion.open(at: path)
    XCTAssertEqual(again.load(again.end - 8), 3)
    try again.close()
  }

  func testFullDiskAtGrowth() throws {
    let at = try mountTmpfs("size=256k")
    var journaled = RegionOptions(media: .journaledFile)
    journaled.journalSize = 24 << 10
    for medium in [RegionOptions(media: .emulated), RegionOptions(media: .inPlaceFile), journaled] {
      let path = at + "/r.nvm"
      let region = try PersistentRegion.create(at: path, size: 1 << 16, options: medium)
      region.store(1, at: region.payloadStart)
      try region.persist(region.payloadStart, count: 8)
      for _ in 0..<3 {
        assertThrows(.diskFull, path: path) { try region.grow(toAtLeast: 1 << 20) }
        XCTAssertEqual(fileSize(path), region.size)
        XCTAssertEqual(region.sizeWithoutJournal, 1 << 16)
      }
      // The store goes on, and grows where there is room.
      try region.checkWritable()
      try region.storeDurable(2, at: region.payloadStart)
      try region.grow(toAtLeast: 1 << 17)
      XCTAssertEqual(region.size, 1 << 17)
      if let journal = region.journal { try journal.checkpointNow() }
      try region.close()
      let again = try PersistentRegion.open(at: path, options: medium)
      XCTAssertEqual(again.load(again.payloadStart), 2)
      XCTAssertTrue(again.wasCleanlyClosed)
      try again.close()
      unlink(path)
    }
  }
}
