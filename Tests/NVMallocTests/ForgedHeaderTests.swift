import CNVM
import XCTest

@testable import NVMRegion
@testable import NVMalloc

/// Headers whose checksums are right and whose fields are absurd, as a malicious file has them, or rot that happens to
/// verify: nothing that is done with such a heap ends the process, loops, or reads outside the region.
final class ForgedHeaderTests: XCTestCase {
  /// An image of a heap to be forged.
  private struct Image {
    let bytes: UnsafeMutableRawBufferPointer
    let header: HeapHeader
    let check: HeaderCheck

    func word(_ at: UInt64) -> UInt64 { bytes.load(fromByteOffset: Int(at), as: UInt64.self) }
    func set(_ word: UInt64, at offset: UInt64) {
      bytes.storeBytes(of: word, toByteOffset: Int(offset), as: UInt64.self)
    }
    func entry(_ unit: Int) -> UInt64 { (header.tableOffset + unit * ExtentEntry.size).rawValue }
    func start(_ unit: Int) -> UInt64 { UInt64(unit << header.unitShift) }
    var lanes: UInt64 { header.lanesOffset.rawValue }

    /// The first units of what is of a kind.
    func heads(_ kind: ExtentKind) -> [Int] {
      (0..<header.unitCount).filter { unit in
        let word0 = word(entry(unit))
        return ExtentEntry.kind(word0) == kind
          && check.isValidExtent(word0, at: start(unit), word(entry(unit) + 8), word(entry(unit) + 16))
      }
    }

    func setHead(_ unit: Int, low: UInt64, _ word1: UInt64, _ word2: UInt64) {
      let covered = low & 15 != ExtentKind.free.rawValue
      let offset = start(unit)
      let a = nvm_mix2(check.seed ^ offset, low | 1 << 60, covered ? word1 : 0)
      let sum = UInt64(nvm_fold32(nvm_mix2(a, covered ? word2 : 0, offset)))
      set(sum << 32 | low, at: entry(unit))
      set(word1, at: entry(unit) + 8)
      set(word2, at: entry(unit) + 16)
    }

    func setHeader(copy: Int, _ change: (UnsafeMutableRawBufferPointer) -> Void) {
      let at = SuperblockLayout.headerSize + copy * HeapHeaderLayout.copyStride
      let part = UnsafeMutableRawBufferPointer(rebasing: bytes[at..<at + HeapHeaderLayout.size])
      change(part)
      part.storeBytes(
        of: nvm_crc32c(0, part.baseAddress!, HeapHeaderLayout.checksummed),
        toByteOffset: HeapHeaderLayout.checksummed, as: UInt32.self)
    }

    /// A record in the ring of a lane.
    func setRecord(lane: Int, position: Int, kind: UInt64, sequence: UInt64, count: UInt64, pairs: [UInt64]) {
      let line = LaneLog.line
      let at = lanes + UInt64(lane * header.laneSize + position * line)
      let n = pairs.count <= 6 ? 1 : 1 + (pairs.count - 6 + 7) / 8
      var record = [UInt64](repeating: 0, count: n * 8)
      record[0] = 0x4C | kind << 8 | sequence << 16
      record[1] = count & 0xFFFF_FFFF
      for (i, word) in pairs.enumerated() { record[2 + i] = word }
      let sum = record.withUnsafeBytes {
        nvm_fold32(nvm_hash_bytes(check.seed ^ at, $0.baseAddress, $0.count))
      }
      record[1] |= UInt64(sum) << 32
      for (i, word) in record.enumerated() { set(word, at: at + UInt64(i * 8)) }
    }
  }

  /// Small, large, near a power of two, or anything.
  private func absurd(_ random: inout SplitMix) -> UInt64 {
    switch Int.random(in: 0..<6, using: &random) {
    case 0: UInt64.random(in: 0...70, using: &random)
    case 1: UInt64.max - UInt64.random(in: 0...70, using: &random)
    case 2:
      (UInt64(1) << UInt64.random(in: 0..<64, using: &random)) &- 1 &+ .random(in: 0...2, using: &random)
    case 3: UInt64.random(in: 0..<1 << 17, using: &random)
    case 4: UInt64.random(in: 0..<1 << 17, using: &random) & ~63
    default: random.next()
    }
  }

  private func forge(_ image: Image, _ live: [Offset], _ random: inout SplitMix) {
    switch Int.random(in: 0..<8, using: &random) {
    case 0:
      let copy = Int.random(in: 0...1, using: &random)
      let value = absurd(&random)
      let field = Int.random(in: 4...12, using: &random)
      for c in [copy, Bool.random(using: &random) ? copy : 1 - copy] {
        image.setHeader(copy: c) {
          if field == 12 {
            $0.storeBytes(of: UInt32(truncatingIfNeeded: value), toByteOffset: 12, as: UInt32.self)
          } else {
            $0.storeBytes(of: value, toByteOffset: 8 * field, as: UInt64.self)
          }
        }
      }
    case 1, 2:
      let unit = Int.random(in: 0..<image.header.unitCount, using: &random)
      let kind = UInt64.random(in: 0...7, using: &random)
      let length =
        Bool.random(using: &random)
        ? UInt64.random(in: 0...UInt64(image.header.unitCount), using: &random) : absurd(&random)
      let word1 =
        Bool.random(using: &random)
        ? UInt64.random(in: 0...2050, using: &random) | absurd(&random) << 32 : absurd(&random)
      image.setHead(unit, low: (length << 4 | kind) & 0xFFFF_FFFF, word1, absurd(&random))
      let base = image.start(unit)
      let mark = UInt32(truncatingIfNeeded: absurd(&random))
      image.set(
        image.check.mark(mark, generation: UInt32(word1 >> 32), at: base), at: image.entry(unit) + 24)
      image.set(
        image.check.rest(Int(absurd(&random) & 0xFFF_FFFF), behind: Int(length & 0xFFF_FFFF), at: base),
        at: image.entry(unit) + 32)
    case 3:
      guard let unit = image.heads(.slab).randomElement(using: &random) else { return }
      let generation = UInt32(image.word(image.entry(unit) + 8) >> 32)
      image.set(
        image.check.mark(
          UInt32.random(in: 0...80, using: &random), generation: generation, at: image.start(unit)),
        at: image.entry(unit) + 24)
    case 4, 5:
      guard let unit = image.heads(.slab).randomElement(using: &random) else { return }
      let word1 = image.word(image.entry(unit) + 8)
      let bytes = max(1, Int(word1 & 0xFFFF)) * 64
      let i = Int.random(in: 0..<max(1, (1 << image.header.unitShift) / bytes), using: &random)
      let block = image.start(unit) + UInt64(i * bytes)
      let own = UInt32(bytes / 64) << 7
      let low =
        Bool.random(using: &random)
        ? own | UInt32.random(in: 0..<128, using: &random) | UInt32.random(in: 0..<128, using: &random) << 19
        : UInt32(truncatingIfNeeded: absurd(&random))
      let second = absurd(&random)
      let covered = low & 3 == BlockState.allocated ? second : 0
      image.set(
        image.check.block(low, at: block, generation: UInt32(word1 >> 32), word1: covered), at: block)
      image.set(second, at: block + 8)
    case 6:
      let lines = image.header.laneSize / LaneLog.line
      let kind = UInt64.random(in: 0...5, using: &random)
      let count = Int.random(in: 0...10, using: &random)
      image.setRecord(
        lane: Int.random(in: 0..<image.header.laneCount, using: &random),
        position: Int.random(in: 0..<max(1, lines - 3), using: &random), kind: kind,
        sequence: Bool.random(using: &random) ? 1 << 30 : absurd(&random),
        count: kind == 1 ? UInt64(count) : kind == 4 ? UInt64(max(count, 1) - 1) : absurd(&random),
        pairs: (0..<count * 2).map { _ in absurd(&random) })
    default:
      let at =
        image.header.rootsOffset.rawValue + UInt64(Int.random(in: 0..<8, using: &random) * RootLine.size)
      let length = Int.random(in: 0...60, using: &random)
      for i in 0..<6 { image.set(random.next() & 0x7F7F_7F7F_7F7F_7F7F, at: at + 16 + UInt64(i * 8)) }
      let name = UnsafeRawBufferPointer(rebasing: image.bytes[Int(at) + 16..<Int(at) + 16 + min(length, 48)])
      image.set(image.check.rootName(name, at: at), at: at + 8)
      image.set(absurd(&random), at: at)
    }
  }

  private func use(_ heap: PersistentHeap, _ live: [Offset], _ random: inout SplitMix) throws {
    _ = try heap.verify()
    _ = heap.statistics
    var seen: [BlockInfo] = []
    try? heap.forEachBlock { seen.append($0) }
    for info in seen {
      XCTAssertTrue(heap.region.contains(info.payload, count: info.length), "\(info)")
      XCTAssertLessThanOrEqual(info.length, info.capacity)
    }
    for (i, p) in (live + seen.map(\.payload)).enumerated() {
      _ = try? heap.info(of: p)
      switch i % 5 {
      case 0: _ = try? heap.reallocate(p, byteCount: Int.random(in: 0..<4000, using: &random))
      case 1: try? heap.deallocate(contentsOf: [p, p + 16])
      case 2: try? heap.publish { publication throws(NVMError) in try publication.deallocate(p) }
      default: try? heap.deallocate(p)
      }
    }
    for size in [40, 600, 3000, 9000, 40, 40_000] { _ = try? heap.allocate(byteCount: size) }
    if let link = try? heap.rootLink(named: "a") {
      try? heap.remove(from: link)
      _ = try? heap.place(byteCount: 100, into: link) { heap.region.store(1, at: $0) }
      _ = try? heap.defragment(pointers: [link])
    }
    _ = try heap.verify()
    heap.close()
    let image = UnsafeRawBufferPointer(start: heap.region.pointer(to: .null), count: heap.region.size)
    let copy = try PersistentRegion.inMemory(
      image: image, size: image.count, maximumSize: heap.region.maximumSize, medium: nil)
    _ = try PersistentHeap.repair(copy)
  }

  /// More slack than the block has room, and a payload that begins within the header.
  func testABlockThatIsShorterThanNothing() throws {
    let heap = try makeHeap()
    for shift in 2...4 {
      let p = try heap.allocate(byteCount: 100, tag: BlockTag(rawValue: 3))
      let slab = try XCTUnwrap(heap.slab(holding: p))
      let word1 = BlockHeader.word1(tag: .none, owner: .none, epoch: 0, slack: 2000)
      let low = BlockHeader.allocatedLow(lines: slab.pointee.blockBytes >> 6, shift: shift, slack: 2000)
      let block = (p - 16).rawValue
      heap.region.store(word1, at: p - 8)
      heap.region.store(
        heap.check.block(low, at: block, generation: slab.pointee.generation, word1: word1), at: p - 16)
      let payload = Offset(rawValue: block) + (1 << shift)
      assertThrows(.corrupt, try heap.reallocate(payload, byteCount: 5000))
      assertThrows(.corrupt, try heap.reallocate(payload, byteCount: 5000), "the block was left alone")
      XCTAssertTrue(try heap.verify().problems.contains { $0.offset == p - 16 })
    }
  }

  /// A call that changes both words of a header may lose the processor in between: that is no damage.
  func testABlockInTheHandsOfAnotherCall() throws {
    let heap = try makeHeap()
    let region = heap.region
    let p = try heap.allocate(byteCount: 100)
    let word1 = region.load(p - 8)
    let claim = try heap.claim(p)
    nonisolated(unsafe) let resizes = heap.control + PersistentHeap.Control.resizes
    nvm_store_release(resizes, 1)
    region.store(word1 ^ 1 << 20, at: p - 8)
    let threads = Threads()
    threads.run {
      usleep(3000)
      region.store(word1, at: p - 8)
      nvm_store_release(resizes, 0)
    }
    XCTAssertEqual(try heap.verify().problems, [])
    threads.wait()
    // In hand, and whole.
    assertThrows(.doubleFree, try heap.deallocate(p))
    heap.unclaim(claim)
    try heap.deallocate(p)
  }

  func testNoHeaderEndsTheProcess() throws {
    let heap = try makeHeap(size: 128 << 10)
    var live: [Offset] = []
    for i in 0..<60 {
      live.append(try heap.allocate(byteCount: i % 20 == 3 ? 9000 : [40, 600, 1500][i % 3]))
    }
    for p in live.prefix(20) { try heap.deallocate(p) }
    try heap.setRoot(live[30], named: "a")
    let rounds = ProcessInfo.processInfo.environment["NVM_FORGED_ROUNDS"].flatMap { Int($0) } ?? 1500
    let first = ProcessInfo.processInfo.environment["NVM_FORGED_SEED"].flatMap { UInt64($0) } ?? 1
    var opened = 0
    for seed in first..<first + UInt64(rounds) {
      var random = SplitMix(seed: seed)
      do {
        let h = try reopened(heap, maximumSize: 256 << 10) { bytes in
          let (header, check) = heap.extents.withLock { ($0.header, heap.check) }
          let image = Image(bytes: bytes, header: header, check: check)
          for _ in 0..<Int.random(in: 1...4, using: &random) { forge(image, live, &random) }
        }
        opened += 1
        try use(h, live, &random)
      } catch {
        XCTAssertTrue(error is NVMError, "seed \(seed): \(error)")
      }
    }
    XCTAssertGreaterThan(opened, rounds / 2)
  }
}
