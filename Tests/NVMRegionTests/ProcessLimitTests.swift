import Foundation
import NVMRegion
import XCTest

/// Limits of the process and other processes, by a child: file size, address space, descriptors, locks, fork.
final class ProcessLimitTests: RegionTestCase {
  private let options = RegionOptions(media: .emulated)

  private func makeFile(size: Int = 1 << 20) throws -> String {
    try PersistentRegion.create(at: memoryPath(), size: size, options: options).close()
    return memoryPath()
  }

  func testFileSizeLimit() throws {
    // No SIGXFSZ, no half file.
    let created = try helper("--fsize", "65536", "create", memoryPath("new"), "1048576")
    XCTAssertTrue(created.hasPrefix("error diskFull: \(memoryPath("new"))"), created)
    XCTAssertTrue(created.contains("ulimit -f"), created)
    XCTAssertEqual(names(in: memoryDirectory), [])
    let path = try makeFile()
    let grown = try helper("--fsize", "2000000", "grow", path, "4194304")
    XCTAssertTrue(grown.hasPrefix("error diskFull: \(path)"), grown)
    XCTAssertEqual(fileSize(path), 1 << 20)
    let again = try PersistentRegion.open(at: path, options: options)
    XCTAssertTrue(again.wasCleanlyClosed)
    XCTAssertEqual(again.load(again.end - 8), 4711, "the region went on after the failure")
    try again.close()
  }

  func testAddressSpaceLimit() throws {
    // Room for the file, not for the reservation: less is reserved, and growth ends there.
    let path = try makeFile()
    let opened = try helper("--memory", "268435456", "open", path).split(separator: " ")
    XCTAssertEqual(opened.first, "ok")
    XCTAssertEqual(opened[1], "1048576")
    let maximum = Int(opened[2]) ?? 0
    XCTAssertGreaterThanOrEqual(maximum, 1 << 20)
    XCTAssertLessThan(maximum, 1 << 28)
    let grown = try helper("--memory", "268435456", "grow", path, "1073741824")
    XCTAssertTrue(grown.hasPrefix("error outOfSpace: \(path)"), grown)
    XCTAssertEqual(fileSize(path), 1 << 20)
    // No room for the file itself.
    let big = memoryPath("big")
    try PersistentRegion.create(at: big, size: 64 << 20, options: options).close()
    for command in ["open", "read"] {
      let refused = try helper("--memory", "16777216", command, big)
      XCTAssertTrue(refused.hasPrefix("error outOfMemory: \(big)") && refused.contains("ulimit -v"), refused)
    }
    let created = try helper("--memory", "16777216", "create", memoryPath("new"), "67108864")
    XCTAssertTrue(created.hasPrefix("error outOfMemory: "), created)
    XCTAssertEqual(names(in: memoryDirectory), ["big", "r.nvm"])
    let again = try PersistentRegion.open(at: big, options: options)
    XCTAssertTrue(again.wasCleanlyClosed)
    try again.close()
  }

  func testTooManyOpenFiles() throws {
    let path = try makeFile()
    for (command, path) in [("open", path), ("read", path), ("create", memoryPath("new"))] {
      let line = try helper("--files", "3", command, path)
      XCTAssertTrue(line.hasPrefix("error system: \(path)") && line.contains("ulimit -n"), line)
    }
    XCTAssertEqual(names(in: memoryDirectory), ["r.nvm"])
  }

  func testFileInUseByAnotherProcess() throws {
    let path = try makeFile()
    let holder = try HoldingHelper(path)
    for access in [RegionOptions.Access.readWrite, .readOnly] {
      assertThrows(.locked, path: path, mentioning: "by process \(holder.pid)", "Close it there first") {
        try PersistentRegion.open(at: path, options: RegionOptions(media: .emulated, access: access))
      }
    }
    let third = try helper("open", path)
    XCTAssertTrue(
      third.hasPrefix("error locked: \(path)") && third.contains("by process \(holder.pid)"), third)
    try holder.end()
    let region = try PersistentRegion.open(at: path, options: options)
    XCTAssertTrue(region.wasCleanlyClosed)
    XCTAssertEqual(region.load(region.payloadStart), 99)
    // And the other way round.
    let line = try helper("open", path)
    XCTAssertTrue(line.contains("by process \(getpid())"), line)
    try region.close()
    XCTAssertTrue(try helper("open", path).hasPrefix("ok "))
  }

  func testLockOfAKilledProcessIsGone() throws {
    let path = try makeFile()
    let holder = try HoldingHelper(path)
    try holder.end(killing: true)
    let region = try PersistentRegion.open(at: path, options: options)
    XCTAssertFalse(region.wasCleanlyClosed)
    XCTAssertEqual(region.load(region.payloadStart), 99)
    try region.close()
  }

  func testReadersShareAcrossProcesses() throws {
    let path = try makeFile()
    let reader = try PersistentRegion.open(
      at: path, options: RegionOptions(media: .emulated, access: .readOnly))
    XCTAssertTrue(try helper("read", path).hasPrefix("ok "))
    let writer = try helper("open", path)
    XCTAssertTrue(writer.hasPrefix("error locked: \(path)") && writer.contains("for reading"), writer)
    try reader.close()
  }

  func testForkedChildIsRefused() throws {
    let path = try makeFile()
    XCTAssertEqual(try helper("fork", path), "ok child 0 other locked")
    let region = try PersistentRegion.open(at: path, options: options)
    XCTAssertTrue(region.wasCleanlyClosed)
    XCTAssertEqual(region.load(region.payloadStart), 4711)
    XCTAssertEqual(region.size, 1 << 20)
    try region.close()
  }
}
