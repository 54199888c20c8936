import NVMRegion
import NVMalloc
import XCTest

/// Random work against a dictionary.
final class ModelTests: XCTestCase {
  private struct Block {
    var length: Int
    var stamp: UInt64
    var tag: UInt16
  }

  private func stamp(_ heap: PersistentHeap, _ p: Offset, _ b: Block) {
    var i = 0
    while i + 8 <= b.length {
      heap.region.store(b.stamp &+ UInt64(i), at: p + i)
      i += b.length > 512 ? max(8, (b.length / 8) & ~7) : 8
    }
  }
  private func hasStamp(_ heap: PersistentHeap, _ p: Offset, _ b: Block) -> Bool {
    var i = 0
    while i + 8 <= b.length {
      if heap.region.load(p + i) != b.stamp &+ UInt64(i) { return false }
      i += b.length > 512 ? max(8, (b.length / 8) & ~7) : 8
    }
    return true
  }

  private func check(_ heap: PersistentHeap, _ model: [Offset: Block], _ context: String) throws {
    var seen = 0
    try heap.forEachBlock { info in
      seen += 1
      guard let block = model[info.payload] else { return XCTFail("unknown block \(info) \(context)") }
      XCTAssertEqual(info.length, block.length, context)
      XCTAssertEqual(info.tag.rawValue, block.tag, context)
    }
    XCTAssertEqual(seen, model.count, context)
    for (p, b) in model where !hasStamp(heap, p, b) { return XCTFail("bytes of \(p) changed \(context)") }
    XCTAssertEqual(try heap.verify().problems.count, 0, context)
  }

  func testRandomOperationsWithReopening() throws {
    let seed: UInt64 = 4711
    print("seed \(seed)")
    var random = SplitMix(seed: seed)
    var heap = try makeHeap(size: 256 << 10, maximumSize: 6 << 20)
    var model: [Offset: Block] = [:]
    var order: [Offset] = []
    var n: UInt64 = 0
    var refused = 0
    for step in 0..<240_000 {
      n &+= 0x1234_5678_9ABC
      let choice = Int.random(in: 0..<100, using: &random)
      // Phases of growing and shrinking.
      let grows = step / 20_000 % 3 != 2
      if choice < (grows ? 55 : 30) || order.isEmpty {
        let length =
          switch Int.random(in: 0..<20, using: &random) {
          case 0: Int.random(in: 8192...60_000, using: &random)
          case 1...3: Int.random(in: 500...8192, using: &random)
          default: Int.random(in: 0...300, using: &random)
          }
        let b = Block(length: length, stamp: n, tag: UInt16(truncatingIfNeeded: n))
        do throws(NVMError) {
          let alignment = choice == 7 ? 256 : 16
          let p = try heap.allocate(byteCount: length, alignment: alignment, tag: BlockTag(rawValue: b.tag))
          XCTAssertNil(model[p])
          stamp(heap, p, b)
          model[p] = b
          order.append(p)
        } catch {
          guard error.code == .outOfSpace else { throw error }
          refused += 1
        }
      } else if choice < 92 {
        let i = Int.random(in: 0..<order.count, using: &random)
        let p = order[i]
        order[i] = order[order.count - 1]
        order.removeLast()
        guard let b = model.removeValue(forKey: p) else { return XCTFail("model") }
        if !hasStamp(heap, p, b) { return XCTFail("seed \(seed) step \(step): bytes changed") }
        try heap.deallocate(p, durability: choice & 1 == 0 ? .immediate : .deferred)
      } else if choice < 97 {
        let i = Int.random(in: 0..<order.count, using: &random)
        let p = order[i]
        let length = Int.random(in: 0...1000, using: &random)
        do throws(NVMError) {
          let q = try heap.reallocate(p, byteCount: length)
          guard let old = model.removeValue(forKey: p) else { return XCTFail("model") }
          let b = Block(length: length, stamp: n, tag: old.tag)
          stamp(heap, q, b)
          model[q] = b
          order[i] = q
        } catch {
          guard error.code == .outOfSpace else { throw error }
        }
      } else {
        let i = Int.random(in: 0..<order.count, using: &random)
        let p = order[i]
        let b = Block(length: 64, stamp: n, tag: 1)
        do throws(NVMError) {
          var new = Offset.null
          try heap.publish { publication throws(NVMError) in
            new = try publication.reserve(byteCount: 64, tag: BlockTag(rawValue: 1))
            stamp(heap, new, b)
            try publication.deallocate(p)
          }
          model[p] = nil
          model[new] = b
          order[i] = new
        } catch {
          guard error.code == .outOfSpace else { throw error }
        }
      }
      if step % 12_000 == 11_999 {
        let context = "seed \(seed) step \(step)"
        try check(heap, model, context)
        let next = try reopened(heap)
        if step % 24_000 == 23_999 { heap.close() }
        heap.region.abandon()
        heap = next
        try check(heap, model, context)
      }
    }
    print("refused \(refused), live \(model.count), region \(heap.region.size)")
    for p in order { try heap.deallocate(p) }
    XCTAssertEqual(heap.statistics.liveBlocks, 0)
    let all = heap.statistics.totalBytes - heap.statistics.metadataBytes
    XCTAssertNoThrow(try heap.deallocate(try heap.allocate(byteCount: all * 2 / 3)))
  }

  func testThreads() throws {
    let heap = try makeHeap(size: 128 << 10, maximumSize: 32 << 20)
    final class Box: @unchecked Sendable {
      var blocks: [Offset: UInt64] = [:]
      var failure: String?
    }
    let boxes = [Box(), Box(), Box()]
    let group = Threads()
    for (t, box) in boxes.enumerated() {
      group.run {
        var random = SplitMix(seed: UInt64(t))
        do {
          let link = try heap.rootLink(named: "t\(t)")
          for step in 0..<20_000 {
            let n = UInt64(t) << 56 | UInt64(step)
            if Int.random(in: 0..<5, using: &random) < 3 || box.blocks.isEmpty {
              let size =
                Int.random(in: 0..<50, using: &random) == 0
                ? 10_000 : [16, 100, 1000].randomElement(using: &random)!
              let p = try heap.allocate(byteCount: size, owner: OwnerToken(rawValue: UInt32(t + 1)))
              heap.region.store(n, at: p)
              if box.blocks.updateValue(n, forKey: p) != nil { box.failure = "handed out twice" }
            } else if step % 50 == 0 {
              if heap.region.load(link) == 0 {
                try heap.place(byteCount: 100, into: link) { heap.region.store(n, at: $0) }
              } else {
                try heap.remove(from: link)
              }
            } else if step % 31 == 0, let (old, _) = box.blocks.first {
              // A large block in a step takes the gate that a moving table closes.
              var new = Offset.null
              try heap.publish { publication throws(NVMError) in
                new = try publication.reserve(
                  byteCount: step % 62 == 0 ? 9000 : 200, owner: OwnerToken(rawValue: UInt32(t + 1)))
                heap.region.store(n, at: new)
                heap.region.flush(new, count: 8)
                try publication.deallocate(old)
              }
              box.blocks[old] = nil
              if box.blocks.updateValue(n, forKey: new) != nil { box.failure = "handed out twice" }
            } else if step % 37 == 0, let (old, n) = box.blocks.first {
              let new = try heap.reallocate(old, byteCount: step % 74 == 0 ? 400 : 12_000)
              box.blocks[old] = nil
              box.blocks[new] = n
            } else if let (p, n) = box.blocks.first {
              if heap.region.load(p) != n { box.failure = "somebody else's bytes" }
              try heap.deallocate(p)
              box.blocks[p] = nil
            }
            if box.blocks.count > 3000 {
              for p in box.blocks.keys { try heap.deallocate(p) }
              box.blocks = [:]
            }
          }
          if heap.region.load(link) != 0 { try heap.remove(from: link) }
        } catch {
          box.failure = "\(error)"
        }
      }
    }
    // Enumeration and verification beside it.
    group.run {
      for _ in 0..<20 {
        do {
          var seen: Set<Offset> = []
          try heap.forEachBlock { if !seen.insert($0.payload).inserted { boxes[0].failure = "seen twice" } }
          let report = try heap.verify()
          if !report.isClean { boxes[0].failure = "\(report.problems)" }
        } catch {
          boxes[0].failure = "\(error)"
        }
      }
    }
    group.wait()
    for (t, box) in boxes.enumerated() {
      XCTAssertNil(box.failure)
      var found: Set<Offset> = []
      try heap.forEachBlock(owner: OwnerToken(rawValue: UInt32(t + 1))) { found.insert($0.payload) }
      XCTAssertEqual(found, Set(box.blocks.keys))
    }
    XCTAssertEqual(try heap.verify().problems, [])
    XCTAssertEqual(try reopened(heap).blocks.count, boxes.reduce(0) { $0 + $1.blocks.count })
  }
}
