import NVMRegion
import XCTest

@testable import NVMalloc

/// Rot and stray writes: found by use and by verify, never acted upon, never a crash.
final class DamageTests: XCTestCase {
  private func flip(_ heap: PersistentHeap, _ offset: Offset, bit: Int) {
    // A window, for the stray write is meant.
    try! heap.region.withWritable(offset + bit / 8, count: 1) { $0[0] ^= 1 << UInt8(bit & 7) }
  }

  func testEveryBitOfALiveBlocksHeader() throws {
    let heap = try makeHeap()
    let p = try heap.allocate(byteCount: 100, tag: BlockTag(rawValue: 3))
    let q = try heap.allocate(byteCount: 100)
    for bit in 0..<128 {
      flip(heap, p - 16, bit: bit)
      assertThrows(.corrupt, try heap.deallocate(p), "bit \(bit)")
      assertThrows(.corrupt, try heap.info(of: p), "bit \(bit)")
      assertThrows(.corrupt, try heap.reallocate(p, byteCount: 5000), "bit \(bit)")
      let report = try heap.verify()
      XCTAssertEqual(report.problems.map(\.kind), [.blockHeader], "bit \(bit)")
      XCTAssertEqual(report.problems.first?.offset, p - 16)
      // The others are enumerated, then the damage is told.
      var seen: [Offset] = []
      assertThrows(.corrupt, try heap.forEachBlock { seen.append($0.payload) }, "bit \(bit)")
      XCTAssertEqual(seen, [q])
      let again = try reopened(heap)
      XCTAssertEqual(try again.verify().problems.map(\.kind), [.blockHeader], "bit \(bit)")
      XCTAssertEqual(again.statistics.sizeClasses.map(\.damaged), [1])
      assertThrows(.corrupt, try again.deallocate(p), "bit \(bit)")
      flip(heap, p - 16, bit: bit)
    }
    XCTAssertEqual(try heap.verify().problems, [])
    try heap.deallocate(p)
  }

  func testDamagedFreeBlocksAreNotHandedOut() throws {
    for bit in 0..<64 {
      let heap = try makeHeap()
      let p = try heap.allocate(byteCount: 40)
      let victim = p + 64
      flip(heap, victim - 16, bit: bit)
      XCTAssertEqual(try heap.verify().problems.map(\.kind), [.blockHeader])
      for h in [heap, try reopened(heap)] {
        for _ in 0..<30 { XCTAssertNotEqual(try h.allocate(byteCount: 40), victim, "bit \(bit)") }
        assertThrows(.corrupt, try h.deallocate(victim))
        XCTAssertEqual(h.statistics.damagedBytes, 64)
      }
      // Stale memory of the region must not be taken for the header of another place.
      let bytes = UnsafeRawBufferPointer(start: heap.region.pointer(to: p - 16), count: 16)
      heap.region.write(bytes, at: victim - 16)
      assertThrows(.corrupt, try heap.deallocate(victim))
    }
  }

  /// A count of free blocks that is too high is put right and told: no block is made up, none is handed out twice.
  func testAWrongCountOfFreeBlocks() throws {
    for isChoosy in [false, true] {
      let region = try PersistentRegion.inMemory(image: nil, size: 1 << 20, maximumSize: 1 << 20, medium: nil)
      var own = options()
      if isChoosy { own.placement = .leastAllocated }
      let heap = try PersistentHeap.format(region, options: own)
      var seen: Set<Offset> = [try heap.allocate(byteCount: 40)]
      let slab = try XCTUnwrap(
        heap.shares.first(try XCTUnwrap(heap.classIndex(40, prefix: 16))).pointee.anySlab)
      slab.pointee.freeCount += 3
      for _ in 0..<slab.pointee.blockCount + 5 {
        XCTAssertTrue(seen.insert(try heap.allocate(byteCount: 40)).inserted)
      }
      XCTAssertEqual(slab.pointee.freeCount, 0)
      XCTAssertEqual(try heap.blocks.count, seen.count)
      XCTAssertEqual(try heap.verify().problems, [])
      for block in seen { try heap.deallocate(block) }
      XCTAssertEqual(try heap.blocks.count, 0)
    }
  }

  func testEveryBitOfALargeBlocksHead() throws {
    let heap = try makeHeap(size: 1 << 20)
    let p = try heap.allocate(byteCount: 30_000)
    let q = try heap.allocate(byteCount: 30_000)
    let small = try heap.allocate(byteCount: 30)
    let table = try tableOffset(heap)
    let entry = table + (p.bytes >> 10) * 64
    for bit in 0..<192 {
      flip(heap, entry, bit: bit)
      assertThrows(.corrupt, try heap.deallocate(p), "bit \(bit)")
      assertThrows(.corrupt, try heap.info(of: p), "bit \(bit)")
      XCTAssertTrue(
        try heap.verify().problems.contains { $0.kind == .extentHead && $0.offset == p }, "bit \(bit)")
      var seen: [Offset] = []
      assertThrows(.corrupt, try heap.forEachBlock { seen.append($0.payload) })
      XCTAssertEqual(Set(seen), [q, small])
      let again = try reopened(heap)
      XCTAssertEqual(again.recovery.problems.map(\.kind), [.extentHead], "bit \(bit)")
      XCTAssertEqual(again.recovery.problems.first?.byteCount, 30 << 10)
      XCTAssertEqual(Set(try again.blocks.map(\.payload)), [q, small], "resynchronised at the next head")
      assertThrows(.foreignOffset, try again.deallocate(p))
      // What was skipped is not handed out.
      while let r = try? again.allocate(byteCount: 9000) {
        XCTAssert(r + 9000 <= p || r >= p + 30_720)
      }
      flip(heap, entry, bit: bit)
    }
    XCTAssertEqual(try heap.verify().problems, [])
  }

  func testZeroedTableLines() throws {
    let heap = try makeHeap(size: 256 << 10)
    var live: [Offset] = []
    for i in 0..<60 { live.append(try heap.allocate(byteCount: [40, 600, 9000][i % 3])) }
    for p in live.enumerated().filter({ $0.offset % 4 == 0 }).map(\.element) { try heap.deallocate(p) }
    let all = Set(try heap.blocks.map(\.payload))
    let table = try tableOffset(heap)
    var named = 0
    for unit in 0..<(256 << 10) >> 10 {
      let entry = heap.region.pointer(to: table + unit * 64)
      // A free head that the object before it names is known without.
      let isNamed = (0..<unit).contains {
        let before = heap.region.pointer(to: table + $0 * 64)
        let word0 = before.load(as: UInt64.self)
        return word0 & 15 == 3 && Int(word0 >> 4 & 0xFFF_FFFF) == unit - $0
          && before.load(fromByteOffset: 32, as: UInt64.self) != 0
      }
      named += isNamed ? 1 : 0
      let isHead = entry.load(as: UInt64.self) != 0 && !isNamed
      let again = try reopened(heap) { image in
        image.baseAddress!.advanced(by: (table + unit * 64).bytes).initializeMemory(
          as: UInt8.self, repeating: 0, count: 64)
      }
      let found = Set(try again.blocks.map(\.payload))
      XCTAssertTrue(found.isSubset(of: all), "unit \(unit)")
      XCTAssertEqual(again.recovery.problems.contains { $0.kind == .extentHead }, isHead, "unit \(unit)")
      let start = Offset(unit << 10)
      let lost = all.subtracting(found)
      let hole = again.recovery.problems.first { $0.kind == .extentHead }.map { start..<start + $0.byteCount }
      XCTAssertTrue(lost.allSatisfy { hole?.contains($0) == true }, "unit \(unit)")
      while let r = try? again.allocate(byteCount: 3000) {
        XCTAssertFalse(all.contains { $0 >= r && $0 < r + 3000 }, "unit \(unit)")
      }
    }
    XCTAssertGreaterThan(named, 0)
  }

  /// The head of what was split off is found again by its name; the name goes when something else stands there.
  func testARestIsFoundByItsName() throws {
    let heap = try makeHeap(size: 256 << 10)
    let table = try tableOffset(heap)
    func zeroed(_ p: Offset, _ body: (PersistentHeap) throws -> Void) throws {
      try body(
        try reopened(heap) { image in
          image.baseAddress!.advanced(by: (table + (p.bytes >> 10) * 64).bytes).initializeMemory(
            as: UInt8.self, repeating: 0, count: 64)
        })
    }
    let p = try heap.allocate(byteCount: 9000)
    let rest = p + (9 << 10)
    try zeroed(rest) { again in
      XCTAssertEqual(again.recovery.problems, [], "a crash leaves the like")
      XCTAssertEqual(try again.verify().problems, [])
      XCTAssertEqual(again.statistics.freeExtentBytes, heap.statistics.freeExtentBytes)
      XCTAssertEqual(try again.allocate(byteCount: 9000), rest)
    }
    let entry = heap.region.pointer(to: table + (rest.bytes >> 10) * 64)
    let word0 = entry.load(as: UInt64.self)
    XCTAssertNotEqual(word0, 0)
    heap.region.store(0, at: table + (rest.bytes >> 10) * 64)
    XCTAssertEqual(try heap.verify().problems.map(\.kind), [.extentHead], "nothing is on its way here")
    heap.region.store(word0, at: table + (rest.bytes >> 10) * 64)
    let q = try heap.allocate(byteCount: 9000)
    XCTAssertEqual(q, rest)
    // What follows is free, and reached beyond the damage alone.
    let damage = [HeapProblem.Kind.extentHead, .suspectExtent]
    try zeroed(q) { again in
      XCTAssertEqual(again.recovery.problems.map(\.kind), damage, "what was taken is not free")
      XCTAssertEqual(again.recovery.problems.first?.offset, q)
    }
    // Freed, the same extent is named no more, though its length is what the name said.
    try heap.deallocate(q)
    try zeroed(q) { again in XCTAssertEqual(again.recovery.problems.map(\.kind), damage) }
    XCTAssertEqual(try heap.verify().problems, [])
  }

  func testMarksRootsLanesAndHeaders() throws {
    let heap = try makeHeap()
    var live: [Offset] = []
    for _ in 0..<5 { live.append(try heap.allocate(byteCount: 40)) }
    try heap.setRoot(live[0], named: "a")
    let table = try tableOffset(heap)
    for bit in [0, 5, 13, 31, 32, 63] {
      let slab = try reopened(heap) { image in
        image[(table + (live[0].bytes >> 10) * 64 + 24).bytes + bit / 8] ^= 1 << UInt8(bit & 7)
      }
      XCTAssertEqual(slab.recovery.problems.map(\.kind), [.slabMark])
      XCTAssertEqual(Set(try slab.blocks.map(\.payload)), Set(live), "what lives is found without the mark")
      for _ in 0..<40 {
        let p = try slab.allocate(byteCount: 40)
        XCTAssertNotEqual(p.bytes >> 10, live[0].bytes >> 10)
      }
      for p in live { try slab.deallocate(p) }
    }
    let link = try heap.rootLink(named: "a")
    for bit in stride(from: 0, to: 40, by: 3) {
      let root = try reopened(heap) { image in image[(link + 8).bytes + bit / 8] ^= 1 << UInt8(bit & 7) }
      XCTAssertEqual(root.recovery.problems.map(\.kind), [.root])
      assertThrows(.corrupt, try root.root(named: "a"))
      assertThrows(.corrupt, try root.setRoot(.null, named: "a"))
      XCTAssertEqual(try root.verify().problems.map(\.kind), [.root])
    }
    let start = heap.region.payloadStart.bytes
    for copy in 0..<2 {
      let mended = try reopened(heap) { $0[start + 4096 * copy + 50] ^= 1 }
      XCTAssertEqual(try mended.verify().problems, [])
      XCTAssertEqual(Set(try mended.blocks.map(\.payload)), Set(live))
    }
    assertThrows(
      .corrupt,
      try reopened(heap) {
        $0[start + 50] ^= 1
        $0[start + 4096 + 50] ^= 1
      })
    let rotten = heap.region.payloadStart + 4096 + 100
    flip(heap, rotten, bit: 3)
    XCTAssertEqual(try heap.verify().problems.map(\.kind), [.heapHeader])
    flip(heap, rotten, bit: 3)
  }

  /// Everything that damage set aside can be used again, and what was whole stays.
  func testRepair() throws {
    let heap = try makeHeap(size: 256 << 10)
    var live: [Offset] = []
    for i in 0..<40 { live.append(try heap.allocate(byteCount: [40, 600, 9000, 100][i % 4])) }
    try heap.setRoot(live[1], named: "a")
    try heap.setRoot(live[2], named: "b")
    XCTAssertEqual(try PersistentHeap.repair(copy(of: heap)), [], "nothing to do")
    let table = try tableOffset(heap)
    let victims = [live[0], live[5], live[2], live[6]]
    let link = try heap.rootLink(named: "a")
    let region = try copy(of: heap) { image in
      for p in victims.prefix(2) { image[p.bytes - 16] ^= 4 }
      for p in victims.suffix(2) { image[(table + (p.bytes >> 10) * 64).bytes + 5] ^= 4 }
      image[(table + (live[3].bytes >> 10) * 64).bytes + 25] ^= 4
      image[link.bytes + 8] ^= 1
    }
    let kinds = try PersistentHeap.repair(region).map(\.kind)
    for kind in [HeapProblem.Kind.blockHeader, .extentHead, .slabMark, .root] {
      XCTAssertEqual(
        kinds.count { $0 == kind }, [.blockHeader, .extentHead].contains(kind) ? 2 : 1, "\(kinds)")
    }
    let again = try PersistentHeap.open(region, options: options())
    XCTAssertEqual(again.recovery.problems, [])
    XCTAssertEqual(try again.verify().problems, [])
    XCTAssertEqual(again.statistics.damagedBytes, 0)
    XCTAssertEqual(Set(try again.blocks.map(\.payload)), Set(live).subtracting(victims))
    XCTAssertEqual(again.rootNames, ["b"])
    try again.setRoot(live[3], named: "a")
    var given: Set<Offset> = []
    for size in [40, 600, 9000, 100] {
      while let p = try? again.allocate(byteCount: size) { XCTAssertTrue(given.insert(p).inserted) }
    }
    XCTAssertTrue(given.isDisjoint(with: Set(live).subtracting(victims)))
    again.close()
    XCTAssertEqual(try PersistentHeap.repair(region), [])
  }

  /// The heads of the heap's own areas: what stands there is known without them, and no repair gives it away.
  func testTheHeadsOfTheHeapsOwnAreas() throws {
    for isMoved in [false, true] {
      let heap = try makeHeap(size: 96 << 10, maximumSize: 1 << 20)
      var live: [Offset] = []
      for size in [40, 9000, 1500] { live.append(try heap.allocate(byteCount: size)) }
      if isMoved { live.append(try heap.allocate(byteCount: 200_000)) }
      let table = try tableOffset(heap)
      let own = [0, table.bytes >> 10]
      for lost in [[own[0]], [own[1]], own] {
        for byte in [0, 3, 5, 9] {
          let region = try copy(of: heap) { image in
            for unit in lost { image[(table + unit * 64).bytes + byte] ^= 4 }
          }
          let damaged = try PersistentHeap.open(region, options: options())
          let kinds = lost.map { _ in HeapProblem.Kind.extentHead }
          XCTAssertEqual(damaged.recovery.problems.map(\.kind), kinds, "\(lost)")
          let places = lost.map { Offset($0 << 10) }
          XCTAssertEqual(damaged.recovery.problems.map(\.offset), places, "\(lost)")
          XCTAssertEqual(damaged.statistics.damagedBytes, 0)
          XCTAssertEqual(Set(try damaged.blocks.map(\.payload)), Set(live))
          damaged.close()
          XCTAssertEqual(try PersistentHeap.repair(region).map(\.kind), kinds)
          let again = try PersistentHeap.open(region, options: options())
          XCTAssertEqual(again.recovery.problems, [])
          for size in [40, 600, 9000, 1024, 100] {
            while let p = try? again.allocate(byteCount: size) {
              region.fill(p, count: size, with: 0xEE)
              region.flush(p, count: size)
            }
          }
          XCTAssertEqual(try again.verify().problems, [], "units \(lost), byte \(byte), moved \(isMoved)")
          for p in live { try again.deallocate(p) }
        }
      }
    }
  }

  private func copy(
    of heap: PersistentHeap, changing: (UnsafeMutableRawBufferPointer) -> Void = { _ in }
  ) throws -> PersistentRegion {
    let image = UnsafeMutableRawBufferPointer.allocate(byteCount: heap.region.size, alignment: 4096)
    defer { image.deallocate() }
    image.copyMemory(
      from: UnsafeRawBufferPointer(start: heap.region.pointer(to: .null), count: heap.region.size))
    changing(image)
    return try PersistentRegion.inMemory(
      image: UnsafeRawBufferPointer(image), size: image.count, maximumSize: image.count, medium: nil)
  }

  /// Random damage anywhere: opening, verifying, enumerating and working end in order or in a typed error.
  func testRandomDamageNeverCrashes() throws {
    let heap = try makeHeap(size: 128 << 10)
    var live: [Offset] = []
    for i in 0..<60 {
      live.append(try heap.allocate(byteCount: i % 20 == 3 ? 9000 : [40, 600, 1500][i % 3]))
    }
    for p in live.prefix(20) { try heap.deallocate(p) }
    try heap.setRoot(live[30], named: "a")
    let link = try heap.rootLink(named: "b")
    try heap.publish { p throws(NVMError) in
      try p.set(1, at: link)
      try p.set(try p.reserve(byteCount: 40).rawValue, at: link)
    }
    let seed: UInt64 = 20_260
    var random = SplitMix(seed: seed)
    var opened = 0
    for _ in 0..<1500 {
      do {
        let h = try reopened(heap) { image in
          let body = 8192..<image.count
          for _ in 0..<Int.random(in: 1...6, using: &random) {
            let at = Int.random(in: body, using: &random)
            switch Int.random(in: 0..<4, using: &random) {
            case 0: image[at] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            case 1: for i in at & ~63..<min(at & ~63 + 64, image.count) { image[i] = 0 }
            case 2:
              for i in at & ~63..<min(at & ~63 + 64, image.count) {
                image[i] = .random(in: 0...255, using: &random)
              }
            default:
              let from = Int.random(in: body, using: &random) & ~63
              for i in 0..<64 where (at & ~63) + i < image.count && from + i < image.count {
                image[(at & ~63) + i] = image[from + i]
              }
            }
          }
        }
        opened += 1
        _ = try h.verify()
        _ = h.statistics
        try? h.forEachBlock { _ in }
        for p in live { try? h.deallocate(p) }
        for size in [40, 600, 3000, 9000, 40] { _ = try? h.allocate(byteCount: size) }
        _ = try h.verify()
      } catch {
        XCTAssertTrue(error is NVMError, "seed \(seed)")
      }
    }
    XCTAssertGreaterThan(opened, 1000)
  }

  /// Where the extent table stands, from the newer copy of the heap header (Layout/HeapHeaderLayout.swift).
  private func tableOffset(_ heap: PersistentHeap) throws -> Offset {
    heap.region.load(PersistentPointer<Offset>(heap.region.payloadStart + 48))
  }
}
