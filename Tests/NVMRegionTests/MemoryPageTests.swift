import Glibc
import NVMRegion
import XCTest

/// A file in memory is made of large pages, wherever the system gives them.
final class MemoryPageTests: RegionTestCase {
  private static let window = 2 << 20

  /// Bytes of the region that are mapped by large pages, after each small page was touched.
  private func largeBytes(_ region: PersistentRegion) throws -> Int {
    for at in stride(from: 0, to: region.size, by: 4096) { _ = region.load(Offset(at)) }
    let base = UInt(bitPattern: region.baseAddress)
    var isInside = false
    var large = 0
    // Line by line: a file of this kind has no size.
    let file = try XCTUnwrap(fopen("/proc/self/smaps", "r"))
    defer { fclose(file) }
    var buffer = [CChar](repeating: 0, count: 8192)
    while fgets(&buffer, Int32(buffer.count), file) != nil {
      let line = buffer.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
      if let first = line.split(separator: "-").first, let start = UInt(first, radix: 16) {
        isInside = (base..<base + UInt(region.size)).contains(start)
      }
      guard isInside, line.hasPrefix("ShmemPmdMapped:") else { continue }
      large += Int(line.split(separator: " ")[1])! << 10
    }
    return large
  }

  /// Whether the system makes large pages of a file in memory when it is asked to.
  private func skipWithoutLargePages() throws {
    let fd = open(memoryPath(), O_CREAT | O_RDWR, 0o600)
    unlink(memoryPath())
    defer { close(fd) }
    try XCTSkipIf(fd < 0 || ftruncate(fd, 2 * Self.window) != 0, "no files in memory")
    let room = mmap(nil, 3 * Self.window, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
    defer { munmap(room, 3 * Self.window) }
    let at = UnsafeMutableRawPointer(
      bitPattern: (UInt(bitPattern: room) + UInt(Self.window) - 1) & ~UInt(Self.window - 1))!
    mmap(at, Self.window, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0)
    at.storeBytes(of: 1, as: UInt8.self)
    try XCTSkipIf(madvise(at, Self.window, 25) != 0, "the system gives no large pages")
  }

  func testMemoryIsMadeOfLargePages() throws {
    try XCTSkipIf(getenv("NVM_PROTECTION") != nil, "Pages that are closed one by one are small.")
    try skipWithoutLargePages()
    // The end of the region stands within a large page, which therefore is none.
    let region = try PersistentRegion.create(
      at: memoryPath(), size: 4 * Self.window + 8192, options: RegionOptions(media: .emulated))
    XCTAssertEqual(try largeBytes(region), 4 * Self.window)
    try region.grow(toAtLeast: 7 * Self.window)
    XCTAssertEqual(try largeBytes(region), 6 * Self.window)
    for at in stride(from: region.payloadStart.bytes, to: region.size, by: 4096) {
      XCTAssertEqual(region.load(Offset(at)), 0)
    }
    try region.close()
  }
}
