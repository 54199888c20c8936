import CNVM
import Foundation
import NVMRegion
import XCTest

/// Windows, batches and their figures. What ends a process is in `StrayWriteTests`.
final class ProtectionTests: RegionTestCase {
  override func setUpWithError() throws {
    try super.setUpWithError()
    try skipUnderThreadSanitizer()
  }

  private func options(_ protection: RegionProtection) -> RegionOptions {
    var options = RegionOptions(media: .emulated)
    options.protection = protection
    return options
  }
  /// Batches come when the test asks for them (but for the first, which comes with the first store).
  private let byHand = RegionProtection.deferred(interval: .seconds(3600))
  private let granule = 64 << 10

  private func makeRegion(
    _ protection: RegionProtection, granules: Int = 32, maximumSize: Int? = nil, name: String = "r.nvm"
  ) throws -> PersistentRegion {
    var options = options(protection)
    options.maximumSize = maximumSize
    let region = try PersistentRegion.create(at: memoryPath(name), size: granules * granule, options: options)
    if protection == byHand { while region.protectionStatistics.batches == 0 { usleep(100) } }
    try settle(region)
    XCTAssertEqual(region.protectionStatistics.writableBytes, 0)
    return region
  }
  private func settle(_ region: PersistentRegion) throws {
    try region.fence()
    region.applyProtection(everything: true)
  }

  /// The mappings of the region as the system has them, in pages from its start: offset, size and "rw" or "r-".
  private func mappings(_ region: PersistentRegion) throws -> [(range: Range<Int>, permissions: String)] {
    let base = UInt(bitPattern: region.baseAddress)
    // Foundation takes the first short read for the end.
    let file = try XCTUnwrap(FileHandle(forReadingAtPath: "/proc/self/maps"))
    var maps = Data()
    while case let part = file.availableData, !part.isEmpty { maps += part }
    try file.close()
    return String(decoding: maps, as: UTF8.self).split(separator: "\n").compactMap { line in
      let parts = line.split(separator: " ")
      let range = parts[0].split(separator: "-").compactMap { UInt($0, radix: 16) }
      guard base <= range[0], range[1] <= base + UInt(region.size) else { return nil }
      return (Int(range[0] - base)..<Int(range[1] - base), String(parts[1].prefix(2)))
    }
  }
  private func permissions(_ region: PersistentRegion, _ offset: Int) throws -> String? {
    try mappings(region).first { $0.range.contains(offset) }?.permissions
  }

  func testPrimitivesOpenWhatTheyStoreTo() throws {
    for protection in [byHand, .immediate] {
      let region = try makeRegion(protection, granules: 64)
      XCTAssertEqual(region.protection, protection)
      XCTAssertEqual(try permissions(region, 0), "r-")
      let big = [UInt8](repeating: 7, count: 3 * granule)
      region.store(1, at: Offset(granule))
      region.fill(Offset(4 * granule - 100), count: 200, with: 9)
      big.withUnsafeBytes { region.write($0, at: Offset(8 * granule + 4000)) }
      big.withUnsafeBytes { region.writeFlushed($0, at: Offset(20 * granule + 64)) }
      region.copy(from: Offset(20 * granule), to: Offset(30 * granule), count: granule)
      try region.storeDurable(2, at: Offset(40 * granule))
      try region.persist(Offset(0), count: region.size)
      XCTAssertEqual(region.load(Offset(granule)), 1)
      XCTAssertEqual(region.load(Offset(40 * granule)), 2)
      XCTAssertEqual(region.pointer(to: Offset(11 * granule + 3999)).load(as: UInt8.self), 7)
      XCTAssertEqual(region.pointer(to: Offset(31 * granule - 1)).load(as: UInt8.self), 7)
      try settle(region)
      XCTAssertEqual(region.protectionStatistics.writableBytes, 0)
      XCTAssertEqual(try mappings(region).count, 1, "one mapping again when all is closed")
      XCTAssertEqual(try permissions(region, 40 * granule), "r-")
      try region.close()
      let again = try PersistentRegion.open(at: region.path, options: options(.none))
      XCTAssertTrue(again.wasCleanlyClosed)
      XCTAssertEqual(again.load(Offset(40 * granule)), 2)
      try again.close()
      try FileManager.default.removeItem(atPath: region.path)
    }
  }

  func testAGranuleClosesWhenNobodyHasUsedItSinceTheBatchBefore() throws {
    let region = try makeRegion(byHand)
    let place = Offset(5 * granule)
    let cancelled = region.protectionStatistics.cancelled
    region.store(1, at: place)
    XCTAssertEqual(try permissions(region, 5 * granule), "rw")
    XCTAssertEqual(try permissions(region, 6 * granule), "r-", "the neighbour stays closed")
    region.applyProtection(everything: false)
    XCTAssertEqual(try permissions(region, 5 * granule), "rw", "used since the batch before")
    region.store(2, at: place)
    region.applyProtection(everything: false)
    XCTAssertEqual(
      try permissions(region, 5 * granule), "rw", "used again: the request to close is cancelled")
    XCTAssertEqual(region.protectionStatistics.cancelled, cancelled + 1)
    XCTAssertEqual(region.protectionStatistics.writableBytes, granule)
    region.applyProtection(everything: false)
    XCTAssertEqual(try permissions(region, 5 * granule), "r-")
    XCTAssertEqual(region.protectionStatistics.writableBytes, 0)
    region.store(3, at: place)
    XCTAssertEqual(region.load(place), 3)
    try region.close()
  }

  func testNeighboursAreClosedInOneCall() throws {
    let region = try makeRegion(byHand, granules: 300)
    // Over the borders of the words of the bitmaps, in no order.
    for i in (10..<210).shuffled() { region.store(1, at: Offset(i * granule)) }
    let before = region.protectionStatistics
    XCTAssertEqual(before.writableBytes, 200 * granule)
    try settle(region)
    let after = region.protectionStatistics
    XCTAssertEqual(after.changes - before.changes, 1)
    XCTAssertEqual(after.batches - before.batches, 1)
    XCTAssertEqual(after.writableBytes, 0)
    try region.close()
  }

  /// Granules of the second block that are open, as the system has them.
  private func openInBlock(_ region: PersistentRegion) throws -> Int {
    try (32..<64).filter { try permissions(region, $0 * granule) == "rw" }.count
  }
  private func use(_ granules: some Sequence<Int>, of region: PersistentRegion) {
    for g in granules { region.store(UInt64(g), at: Offset(g * granule + 64)) }
  }

  func testABlockInUseOpensAndClosesAsOne() throws {
    let region = try makeRegion(byHand, granules: 128)
    use((32..<56).shuffled(), of: region)
    XCTAssertEqual(try openInBlock(region), 24)
    var before = region.protectionStatistics
    region.applyProtection(everything: false)
    XCTAssertEqual(try openInBlock(region), 32, "the batch opens the rest")
    XCTAssertEqual(region.protectionStatistics.ahead - before.ahead, 8)
    XCTAssertEqual(region.protectionStatistics.changes - before.changes, 1)
    // Half of them now and half of them then is in use too.
    for part in [32..<46, 44..<56, 32..<46] {
      use(part, of: region)
      region.applyProtection(everything: false)
      XCTAssertEqual(try openInBlock(region), 32)
    }
    XCTAssertEqual(try permissions(region, 31 * granule), "r-")
    XCTAssertEqual(try permissions(region, 64 * granule), "r-")
    before = region.protectionStatistics
    region.applyProtection(everything: false)
    XCTAssertEqual(try openInBlock(region), 0, "nobody has stored to it since the batch before")
    XCTAssertEqual(region.protectionStatistics.changes - before.changes, 1)

    // It is remembered.
    use([40], of: region)
    XCTAssertEqual(region.protectionStatistics.faults - before.faults, 1)
    XCTAssertEqual(try openInBlock(region), 32)
    XCTAssertEqual(region.protectionStatistics.writableBytes, 32 * granule)
    use(32..<64, of: region)
    XCTAssertEqual(region.protectionStatistics.faults - before.faults, 1)
    XCTAssertEqual(try permissions(region, 64 * granule), "r-")
    try region.close()
  }

  func testABlockNoLongerInUseIsForgotten() throws {
    for stays in [false, true] {
      let region = try makeRegion(byHand, granules: 128)
      use(32..<64, of: region)
      // The block beside it is in the same word of the queue, and makes no difference.
      for _ in 0..<2 { region.applyProtection(everything: false) }
      use([70], of: region)
      for _ in 0..<2 { region.applyProtection(everything: false) }
      use([40], of: region)
      XCTAssertEqual(try openInBlock(region), 32)
      region.applyProtection(everything: false)
      if stays { use([40], of: region) }
      region.applyProtection(everything: false)
      XCTAssertEqual(try openInBlock(region), stays ? 1 : 0, "what was opened ahead and not used")
      region.applyProtection(everything: false)
      use([41], of: region)
      XCTAssertEqual(try openInBlock(region), 1)
      try region.close()
      try FileManager.default.removeItem(atPath: region.path)
    }
  }

  func testABlockInUseHereAndThereOpensByGranules() throws {
    let region = try makeRegion(byHand, granules: 128)
    for _ in 0..<3 {
      use(32..<55, of: region)
      region.applyProtection(everything: false)
      XCTAssertEqual(try openInBlock(region), 23)
    }
    // What is in use in turn, over more than two batches, is not in use at the same time.
    for i in 0..<9 {
      use(32 + i % 3 * 10..<42 + i % 3 * 10, of: region)
      region.applyProtection(everything: false)
    }
    XCTAssertEqual(try openInBlock(region), 10)
    XCTAssertEqual(region.protectionStatistics.ahead, 0)
    try region.close()
  }

  private func largePages(_ region: PersistentRegion) throws -> Int {
    let base = UInt(bitPattern: region.baseAddress)
    let file = try XCTUnwrap(FileHandle(forReadingAtPath: "/proc/self/smaps"))
    var maps = Data()
    while case let part = file.availableData, !part.isEmpty { maps += part }
    try file.close()
    var isInside = false
    var sum = 0
    for line in String(decoding: maps, as: UTF8.self).split(separator: "\n") {
      let range = line.prefix { $0 != " " }.split(separator: "-").compactMap { UInt($0, radix: 16) }
      if range.count == 2 {
        isInside = base <= range[0] && range[1] <= base + UInt(region.size)
      } else if isInside, line.hasPrefix("ShmemPmdMapped:") {
        sum += line.split(separator: " ").compactMap { Int($0) }.first ?? 0
      }
    }
    return sum << 10
  }

  /// The thread of the guard asks for them where the caller cannot have them: under a block of which parts are closed.
  func testLargePagesUnderABlockInUse() throws {
    let plain = try makeRegion(RegionProtection.none, granules: 128, name: "plain")
    use(1..<128, of: plain)
    plain.useLargePages(Offset(0), count: plain.size)
    if try largePages(plain) == 0 { throw XCTSkip("no large pages for shared memory here") }
    try plain.close()
    let region = try makeRegion(byHand, granules: 128)
    use(32..<56, of: region)
    region.useLargePages(Offset(32 * granule), count: 32 * granule)
    XCTAssertEqual(try largePages(region), 0)
    region.applyProtection(everything: false)
    XCTAssertEqual(try largePages(region), 2 << 20)
    for i in 32..<56 { XCTAssertEqual(region.load(Offset(i * granule + 64)), UInt64(i)) }
    // And they stay as the block closes, and opens.
    for _ in 0..<2 { region.applyProtection(everything: false) }
    XCTAssertEqual(try openInBlock(region), 0)
    use([50], of: region)
    XCTAssertEqual(try largePages(region), 2 << 20)
    XCTAssertEqual(try openInBlock(region), 32)
    try region.close()
  }

  func testRequestsAheadAreCarriedOutInOneCall() throws {
    let region = try makeRegion(byHand, granules: 100)
    let before = region.protectionStatistics
    try region.makeWritable(Offset(10 * granule), count: 50 * granule)
    try region.makeWritable(Offset(70 * granule), count: 8)
    try region.protect(Offset(70 * granule), count: 8)
    region.applyProtection(everything: false)
    let after = region.protectionStatistics
    XCTAssertEqual(after.changes - before.changes, 1, "the other request was taken back")
    XCTAssertEqual(after.faults, before.faults)
    XCTAssertEqual(try permissions(region, 30 * granule), "rw")
    XCTAssertEqual(try permissions(region, 70 * granule), "r-")
    region.pointer(to: Offset(30 * granule)).storeBytes(of: 5, as: UInt64.self)
    XCTAssertEqual(region.protectionStatistics.faults, before.faults, "the pages were open")
    try region.protect(Offset(10 * granule), count: 50 * granule)
    try settle(region)
    XCTAssertEqual(region.protectionStatistics.writableBytes, 0)
    try region.close()
  }

  func testAWindowHoldsBeforeTheBatch() throws {
    let region = try makeRegion(byHand)
    let faults = region.protectionStatistics.faults
    let sum = try region.withWritable(Offset(3 * granule), count: 16) { bytes in
      bytes.storeBytes(of: 4, as: UInt64.self)
      bytes.storeBytes(of: 5, toByteOffset: 8, as: UInt64.self)
      try region.persist(Offset(3 * granule), count: 16)
      return bytes.load(as: UInt64.self) + bytes.load(fromByteOffset: 8, as: UInt64.self)
    }
    XCTAssertEqual(sum, 9)
    XCTAssertEqual(region.protectionStatistics.faults, faults + 1, "one for the granule, not for each store")
    try region.close()
  }

  /// Nothing is noted for a word whose granule is in the queue: the handler knows the store by its instruction.
  func testAWordIsStoredToAClosedGranuleThatIsInTheQueue() throws {
    let region = try makeRegion(byHand)
    let place = Offset(10 * granule)
    try region.makeWritable(place, count: 8)
    try region.protect(place, count: 8)
    XCTAssertEqual(try permissions(region, 10 * granule), "r-")
    let faults = region.protectionStatistics.faults
    region.store(7, at: place)
    XCTAssertEqual(region.load(place), 7)
    XCTAssertEqual(region.protectionStatistics.faults, faults + 1)
    try region.close()
  }

  func testWindowsAreCounted() throws {
    for protection in [byHand, .immediate] {
      let region = try makeRegion(protection)
      let a = Offset(2 * granule)
      try region.makeWritable(a, count: 8)
      try region.makeWritable(a + 100, count: granule)  // the next granule too
      region.pointer(to: a).storeBytes(of: 1, as: UInt64.self)
      region.pointer(to: a + granule).storeBytes(of: 1, as: UInt64.self)
      try region.protect(a, count: 8)
      region.applyProtection(everything: true)
      XCTAssertEqual(try permissions(region, 2 * granule), "rw", "another window is open")
      try region.protect(a + 100, count: granule)
      region.applyProtection(everything: true)
      XCTAssertEqual(try permissions(region, 2 * granule), "r-")
      XCTAssertEqual(try permissions(region, 3 * granule), "r-")
      // One that was never opened, and half of one.
      assertThrows(.invalidArgument, path: region.path, mentioning: "No window") {
        try region.protect(a, count: 8)
      }
      try region.makeWritable(a, count: 8)
      assertThrows(.invalidArgument, path: region.path) { try region.protect(a, count: 2 * granule) }
      try region.protect(a, count: 8)
      try region.close()
      try FileManager.default.removeItem(atPath: region.path)
    }
  }

  func testTooManyWindowsAreRefused() throws {
    let region = try makeRegion(byHand)
    var opened = 0
    let error = assertThrows(.invalidArgument, path: region.path, mentioning: "Too many windows") {
      while opened < 100_000 {
        try region.makeWritable(Offset(3 * granule), count: granule)
        opened += 1
      }
    }
    XCTAssertNotNil(error)
    XCTAssertEqual(opened, 0xF000)
    for _ in 0..<opened { try region.protect(Offset(3 * granule), count: granule) }
    try settle(region)
    XCTAssertEqual(region.protectionStatistics.writableBytes, 0)
    try region.close()
  }

  func testArgumentsAreChecked() throws {
    let region = try makeRegion(.deferred)
    for (offset, count) in [(0, 8), (region.size - 4, 8), (8192, -1), (8192, Int.max), (Int.max, 1)] {
      assertThrows(.invalidArgument, path: region.path) {
        try region.makeWritable(Offset(offset), count: count)
      }
      assertThrows(.invalidArgument, path: region.path) {
        try region.withWritable(Offset(offset), count: count) { _ in }
      }
      assertThrows(.invalidArgument, path: region.path) { try region.protect(Offset(offset), count: count) }
    }
    try region.makeWritable(Offset(8192), count: 0)
    try region.protect(Offset(8192), count: 0)
    try region.close()
    assertThrows(.closed, path: region.path) { try region.makeWritable(Offset(8192), count: 8) }
    assertThrows(.closed, path: region.path) { try region.protect(Offset(8192), count: 8) }
    XCTAssertEqual(region.protectionStatistics.writableBytes, 0)
  }

  func testTooManyMappingsOpenEverything() throws {
    nvm_guard_limit_stretches(20)
    defer { nvm_guard_limit_stretches(0) }
    let region = try makeRegion(byHand, granules: 256)
    for i in stride(from: 1, to: 250, by: 2) { region.store(UInt64(i), at: Offset(i * granule)) }
    XCTAssertGreaterThan(region.protectionStatistics.widened, 0)
    XCTAssertLessThanOrEqual(try mappings(region).count, 42)
    // Every second granule stays in use: closing the others would take as many mappings, and is not done.
    region.applyProtection(everything: false)
    for i in stride(from: 1, to: 250, by: 2) { region.store(UInt64(i), at: Offset(i * granule)) }
    region.applyProtection(everything: false)
    XCTAssertLessThanOrEqual(try mappings(region).count, 42)
    for i in stride(from: 1, to: 250, by: 2) { XCTAssertEqual(region.load(Offset(i * granule)), UInt64(i)) }
    for _ in 0..<3 { region.applyProtection(everything: true) }
    XCTAssertEqual(try mappings(region).count, 1)
    XCTAssertEqual(region.protectionStatistics.writableBytes, 0)
    try region.close()
  }

  func testGrowth() throws {
    for protection in [byHand, .immediate] {
      let region = try makeRegion(protection, granules: 2, maximumSize: 40 * granule)
      // In the middle of a granule, too.
      for size in [2 * granule + 4096, 5 * granule - 8192, 33 * granule] {
        try region.grow(toAtLeast: size)
        region.store(UInt64(size), at: Offset(size - 8))
        try region.persist(Offset(size - 8), count: 8)
        XCTAssertEqual(region.load(Offset(size - 8)), UInt64(size))
      }
      for _ in 0..<2 { try settle(region) }
      XCTAssertEqual(region.protectionStatistics.writableBytes, 0)
      for at in [0, 2 * granule, 5 * granule, 33 * granule - 4096] {
        XCTAssertEqual(try permissions(region, at), "r-", "\(protection) \(at)")
      }
      // To have been made is not to be in use.
      region.store(1, at: Offset(10 * granule))
      XCTAssertEqual(try permissions(region, 11 * granule), "r-")
      try region.close()
      try FileManager.default.removeItem(atPath: region.path)
    }
  }

  func testSeveralRegionsAtOnce() throws {
    let regions = try (0..<5).map { try makeRegion([byHand, .immediate][$0 % 2], name: "r\($0)") }
    for (i, region) in regions.enumerated() {
      for g in 1..<20 { region.store(UInt64(i * 100 + g), at: Offset(g * granule)) }
    }
    try regions[1].close()
    try regions[2].close()
    for (i, region) in regions.enumerated() where i != 1 && i != 2 {
      for g in 1..<20 { XCTAssertEqual(region.load(Offset(g * granule)), UInt64(i * 100 + g)) }
      try settle(region)
      XCTAssertEqual(region.protectionStatistics.writableBytes, 0)
      region.store(1, at: Offset(granule))
      try region.close()
    }
  }

  /// Writers beside a thread that closes all the time: no store is lost, and none that was asked for is taken for a
  /// stray one.
  func testThreadsBesideTheBatches() throws {
    // Now and then granules, and nearly always blocks.
    for (protection, used) in [
      (RegionProtection.deferred(interval: .microseconds(20)), 20), (.immediate, 20),
      (.deferred(interval: .microseconds(700)), 70), (.deferred(interval: .microseconds(20)), 70),
    ] {
      let region = try makeRegion(protection, granules: used + 4)
      region.useLargePages(Offset(0), count: region.size)
      let granule = granule
      onThreads(4) { thread in
        var random = SeededGenerator(seed: UInt64(thread))
        for i in 0..<(protection == .immediate ? 300 : 3000) {
          let g = 1 + Int(random.next() % UInt64(used))
          let at = Offset(g * granule + thread * 4096)
          let value = region.load(at) + 1
          switch i % 3 {
          case 0: region.store(value, at: at)
          case 1: withUnsafeBytes(of: value) { region.write($0, at: at) }
          default:
            try? region.withWritable(at, count: 8) { bytes in
              if i % 5 == 0 { usleep(30) }
              bytes.storeBytes(of: value, as: UInt64.self)
            }
          }
          if i % 4 == 0 { try? region.fence() }
        }
        try? region.fence()
      }
      var sum: UInt64 = 0
      for g in 1...used { for t in 0..<4 { sum += region.load(Offset(g * granule + t * 4096)) } }
      XCTAssertEqual(sum, protection == .immediate ? 1200 : 12000)
      if protection != .immediate { region.applyProtection(everything: true) }
      XCTAssertEqual(region.protectionStatistics.writableBytes, 0)
      try region.close()
      try FileManager.default.removeItem(atPath: region.path)
    }
  }

  func testTheThreadInTheBackgroundCloses() throws {
    let region = try makeRegion(.deferred(interval: .milliseconds(1)))
    region.store(1, at: Offset(granule))
    for _ in 0..<10_000 where region.protectionStatistics.writableBytes > 0 { usleep(1000) }
    XCTAssertEqual(region.protectionStatistics.writableBytes, 0)
    XCTAssertEqual(try permissions(region, granule), "r-")
    try region.close()
  }

  func testClosingDoesNotWaitForTheInterval() throws {
    // The interval is an hour, the test has a time limit.
    let region = try makeRegion(byHand)
    region.store(1, at: Offset(granule))
    try region.close()
    // Late stores harm nobody.
    region.store(2, at: Offset(granule))
  }

  func testReadOnlyRegionsAreProtectedToo() throws {
    try makeRegion(.none).close()
    let before = try bytes(of: memoryPath())
    var options = RegionOptions(media: .emulated, access: .readOnly)
    options.protection = byHand
    let region = try PersistentRegion.open(at: memoryPath(), options: options)
    // As a recovery in the private copy does.
    region.store(5, at: Offset(granule))
    try region.persist(Offset(granule), count: 8)
    XCTAssertEqual(region.load(Offset(granule)), 5)
    assertThrows(.readOnly, path: region.path) { try region.makeWritable(Offset(granule), count: 8) }
    try settle(region)
    XCTAssertEqual(try permissions(region, granule), "r-")
    try region.close()
    XCTAssertEqual(try bytes(of: memoryPath()), before)
  }

  func testWithoutProtectionWindowsAreFree() throws {
    var options = RegionOptions(media: .emulated)
    options.protection = RegionProtection.none
    let region = try PersistentRegion.create(at: memoryPath(), size: 1 << 20, options: options)
    XCTAssertEqual(region.protection, .none)
    try region.withWritable(Offset(granule), count: 8) { $0.storeBytes(of: 3, as: UInt64.self) }
    try region.protect(Offset(granule), count: 8)
    XCTAssertEqual(region.load(Offset(granule)), 3)
    XCTAssertEqual(region.protectionStatistics, ProtectionStatistics())
    try region.close()
  }

  func testTheEnvironmentChooses() throws {
    let before = getenv("NVM_PROTECTION").map { String(cString: $0) }
    defer { if let before { setenv("NVM_PROTECTION", before, 1) } else { unsetenv("NVM_PROTECTION") } }
    let options = RegionOptions(media: .emulated)
    let values: [(String, RegionProtection)] = [
      ("deferred", .deferred(interval: .milliseconds(10))), ("immediate", .immediate), ("none", .none),
      ("deferred:2.5", .deferred(interval: .microseconds(2500))), ("", .none),
    ]
    for (value, protection) in values {
      setenv("NVM_PROTECTION", value, 1)
      let region = try PersistentRegion.create(at: memoryPath("e"), size: 1 << 20, options: options)
      XCTAssertEqual(region.protection, protection, value)
      try region.close()
      try FileManager.default.removeItem(atPath: memoryPath("e"))
    }
    for value in ["on", "deferred:", "deferred:-1", "deferred:x", "deferred:nan", "Immediate"] {
      setenv("NVM_PROTECTION", value, 1)
      assertThrows(.invalidArgument, path: nil, mentioning: "NVM_PROTECTION") {
        try PersistentRegion.create(at: memoryPath("e"), size: 1 << 20, options: options)
      }
      XCTAssertEqual(names(in: memoryDirectory), [])
    }
    // What was chosen counts.
    var chosen = options
    chosen.protection = .immediate
    let region = try PersistentRegion.create(at: memoryPath("e"), size: 1 << 20, options: chosen)
    XCTAssertEqual(region.protection, .immediate)
    try region.close()
  }

  func testKeysAreRefusedWhereThereAreNone() throws {
    if nvm_guard_has_keys() != 0 { throw XCTSkip("this processor has protection keys") }
    assertThrows(.unsupported, path: memoryPath(), mentioning: "protection keys") {
      try PersistentRegion.create(at: memoryPath(), size: 1 << 20, options: options(.keys))
    }
    XCTAssertEqual(names(in: memoryDirectory), [])
  }

  private func skipWithoutKeys() throws {
    if nvm_guard_has_keys() == 0 {
      throw XCTSkip("no protection keys here: Tests/run-with-protection-keys.sh has them")
    }
  }

  func testKeys() throws {
    try skipWithoutKeys()
    let granule = self.granule
    let region = try PersistentRegion.create(at: memoryPath(), size: 1 << 20, options: options(.keys))
    region.store(1, at: Offset(granule))
    try region.withWritable(Offset(granule), count: 16) { bytes in
      region.store(2, at: Offset(granule) + 8)
      bytes.storeBytes(of: 3, as: UInt64.self)
    }
    onThreads(3) { thread in
      // Threads that came after the key, and read before they write.
      XCTAssertEqual(region.load(Offset(granule)), 3)
      region.store(UInt64(thread), at: Offset(granule * 2 + 8 * thread))
    }
    XCTAssertEqual(region.load(Offset(granule * 2 + 16)), 2)
    try region.grow(toAtLeast: 2 << 20)
    region.store(4, at: Offset(30 * granule))
    try region.close()
  }

  func testAKeyForEachRegionUntilNoneIsLeft() throws {
    try skipWithoutKeys()
    var regions: [PersistentRegion] = []
    let error = assertThrows(.unsupported, path: nil, mentioning: "in use") {
      while regions.count < 16 {
        regions.append(
          try PersistentRegion.create(
            at: memoryPath("k\(regions.count)"), size: 1 << 20, options: options(.keys)))
      }
    }
    XCTAssertNotNil(error)
    XCTAssertGreaterThan(regions.count, 8)
    XCTAssertEqual(nvm_guard_has_keys(), 1)
    for (i, region) in regions.enumerated() { region.store(UInt64(i), at: Offset(granule)) }
    // A key is given back.
    try regions.removeLast().close()
    regions.append(
      try PersistentRegion.create(at: memoryPath("again"), size: 1 << 20, options: options(.keys)))
    regions.last?.store(9, at: Offset(granule))
    for region in regions { try region.close() }
  }
}
