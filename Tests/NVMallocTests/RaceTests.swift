import NVMRegion
import NVMalloc
import XCTest

/// Threads that meddle with each other's blocks: of two calls that free one block, one does; nothing is lost, handed out
/// twice, or reported damaged that is not.
final class RaceTests: XCTestCase {
  /// What happened to blocks. No block is handed out twice while all that is freed rests.
  private final class Ledger: @unchecked Sendable {
    private let lock = NSLock()
    private var live: Set<Offset> = []
    private var all: [Offset] = []
    private(set) var failures: [String] = []

    func fail(_ text: String) { lock.withLock { failures.append(text) } }
    func born(_ p: Offset) {
      lock.withLock {
        if !live.insert(p).inserted { failures.append("\(p) is handed out twice") }
        all.append(p)
      }
    }
    /// A call has succeeded that ends a block.
    func died(_ p: Offset) {
      lock.withLock { if live.remove(p) == nil { failures.append("\(p) is freed twice") } }
    }
    func any(_ random: inout SplitMix) -> Offset? {
      lock.withLock {
        all.isEmpty ? nil : all[max(0, all.count - 1 - Int.random(in: 0..<40, using: &random))]
      }
    }
    var blocks: Set<Offset> { lock.withLock { live } }
  }

  private static let refusals: Set<NVMError.Code> = [.doubleFree, .foreignOffset]

  private static func meddle(_ heap: PersistentHeap, _ ledger: Ledger, _ seed: UInt64, steps: Int) {
    var random = SplitMix(seed: seed)
    for _ in 0..<steps {
      let size =
        Int.random(in: 0..<12, using: &random) == 0
        ? Int.random(in: 8200...40_000, using: &random) : Int.random(in: 0...1500, using: &random)
      do throws(NVMError) {
        let p = ledger.any(&random)
        switch Int.random(in: 0..<16, using: &random) {
        case 0...5: ledger.born(try heap.allocate(byteCount: size))
        case 6, 7, 8:
          guard let p else { continue }
          try heap.deallocate(p)
          ledger.died(p)
        case 9, 10:
          guard let p else { continue }
          let q = try heap.reallocate(p, byteCount: size)
          if q != p {
            ledger.died(p)
            ledger.born(q)
          }
        case 11:
          guard let p else { continue }
          var q = Offset.null
          try heap.publish { publication throws(NVMError) in
            q = try publication.reserve(byteCount: size)
            try publication.deallocate(p)
          }
          ledger.died(p)
          ledger.born(q)
        case 12:
          guard let p else { continue }
          try heap.deallocate(contentsOf: [p])
          ledger.died(p)
        case 13:
          guard let p else { continue }
          _ = try heap.info(of: p)
        default:
          guard let p, size < 1500 else { continue }
          // Interior, foreign.
          do throws(NVMError) {
            try heap.deallocate(p + 8)
            ledger.fail("an interior offset was freed")
          } catch {
            guard refusals.contains(error.code) else { throw error }
          }
        }
      } catch {
        if error.code == .closed { return }
        if !refusals.contains(error.code), error.code != .outOfSpace { ledger.fail("seed \(seed): \(error)") }
      }
    }
  }

  private static func look(_ heap: PersistentHeap, _ ledger: Ledger, rounds: Int) {
    for _ in 0..<rounds {
      do throws(NVMError) {
        var seen: Set<Offset> = []
        try heap.forEachBlock { if !seen.insert($0.payload).inserted { ledger.fail("seen twice") } }
        let report = try heap.verify()
        if !report.isClean { ledger.fail("\(report.problems)") }
        _ = heap.statistics
        try heap.scanSlabs()
      } catch {
        if error.code == .closed { return }
        ledger.fail("looking: \(error)")
      }
    }
  }

  private func makeHeap(quarantine: QuarantinePolicy, shares: Int) throws -> PersistentHeap {
    let region = try PersistentRegion.inMemory(
      image: nil, size: 256 << 10, maximumSize: 512 << 20, medium: nil)
    var options = options(.tiny, quarantine)
    options.quarantineLimit = .max
    options.shareCount = shares
    return try PersistentHeap.format(region, options: options)
  }

  func testThreadsThatFreeEachOthersBlocks() throws {
    let rounds = ProcessInfo.processInfo.environment["NVM_RACE_ROUNDS"].flatMap { Int($0) } ?? 4
    for round in 0..<UInt64(rounds) {
      let heap = try makeHeap(quarantine: .quarantine(.seconds(1000)), shares: round & 1 == 0 ? 1 : 4)
      let ledger = Ledger()
      let threads = Threads()
      for t in 0..<4 as Range<UInt64> {
        threads.run { Self.meddle(heap, ledger, round << 8 | t, steps: 1500) }
      }
      threads.run { Self.look(heap, ledger, rounds: 6) }
      // Now and then the heap is closed under all of them.
      if round & 2 != 0 {
        threads.run {
          usleep(30_000)
          heap.close()
        }
      }
      threads.wait()
      XCTAssertEqual(ledger.failures, [], "round \(round)")
      let again = try reopened(heap)
      XCTAssertEqual(try again.verify().problems, [], "round \(round)")
      var seen: Set<Offset> = []
      try again.forEachBlock { seen.insert($0.payload) }
      XCTAssertEqual(seen, ledger.blocks, "round \(round)")
    }
  }

  /// Small work in a heap that is too small for it: what rests is used early, slabs are taken from others and given back,
  /// blocks are moved together. Each block bears its owner's number.
  private static func press(_ heap: PersistentHeap, _ ledger: Ledger, _ seed: UInt64, steps: Int) {
    var random = SplitMix(seed: seed)
    let region = heap.region
    var own: [(p: Offset, size: Int)] = []
    func stamp(_ p: Offset, _ size: Int) {
      for at in stride(from: 0, through: size - 8, by: 8) { region.store(seed ^ p.rawValue, at: p + at) }
    }
    func check(_ p: Offset, _ size: Int, _ number: UInt64) {
      for at in stride(from: 0, through: size - 8, by: 8) where region.load(p + at) != number {
        return ledger.fail("seed \(seed): the bytes of \(p) are somebody else's")
      }
    }
    do throws(NVMError) {
      let directory = try heap.allocate(byteCount: 64 * 8)
      region.fill(directory, count: 64 * 8)
      for step in 0..<steps {
        let size = [8, 40, 100, 200, 500, 1000, 3000, 9000].randomElement(using: &random)!
        let link = directory + Int.random(in: 0..<64, using: &random) * 8
        do throws(NVMError) {
          switch Int.random(in: 0..<12, using: &random) {
          case 0...3:
            let p = try heap.allocate(byteCount: size)
            stamp(p, size)
            own.append((p, size))
          case 4...6:
            guard let i = own.indices.randomElement(using: &random) else { continue }
            let (p, size) = own.remove(at: i)
            check(p, size, seed ^ p.rawValue)
            try heap.deallocate(p)
          case 7:
            guard let i = own.indices.randomElement(using: &random) else { continue }
            let q = try heap.reallocate(own[i].p, byteCount: size)
            check(q, min(size, own[i].size), seed ^ own[i].p.rawValue)
            stamp(q, size)
            own[i] = (q, size)
          case 8:
            if region.load(link) == 0 {
              _ = try heap.place(byteCount: 200, into: link) {
                region.fill($0, count: 200, with: UInt8(seed & 63))
              }
            }
          case 9:
            if region.load(link) != 0 { try heap.remove(from: link) }
          case 10 where step % 7 == 0:
            let links = (0..<64).map { directory + $0 * 8 }
            try heap.defragment(pointers: links)
            for link in links where region.load(link) != 0 {
              let p = Offset(rawValue: region.load(link))
              check(p, 200, 0x0101_0101_0101_0101 &* (seed & 63))
            }
          default:
            try heap.deallocate(contentsOf: own.prefix(5).map(\.p))
            own.removeFirst(min(5, own.count))
          }
        } catch {
          guard error.code == .outOfSpace else { throw error }
        }
      }
      for i in 0..<64 where region.load(directory + i * 8) != 0 { try heap.remove(from: directory + i * 8) }
      for (p, size) in own {
        check(p, size, seed ^ p.rawValue)
        try heap.deallocate(p)
      }
      try heap.deallocate(directory)
    } catch {
      ledger.fail("seed \(seed): \(error)")
    }
  }

  func testThreadsInAFullHeap() throws {
    let rounds = ProcessInfo.processInfo.environment["NVM_RACE_ROUNDS"].flatMap { Int($0) } ?? 4
    for round in 0..<UInt64(rounds) {
      let region = try PersistentRegion.inMemory(
        image: nil, size: 192 << 10, maximumSize: 384 << 10, medium: nil)
      var options = options(.tiny, round & 1 == 0 ? .none : .quarantine(.milliseconds(3)))
      options.shareCount = round & 2 == 0 ? 1 : 8
      let heap = try PersistentHeap.format(region, options: options)
      let ledger = Ledger()
      let threads = Threads()
      for t in 0..<4 as Range<UInt64> {
        threads.run { Self.press(heap, ledger, round << 8 | t << 2 | 1, steps: 1500) }
      }
      threads.run { Self.look(heap, ledger, rounds: 4) }
      threads.wait()
      XCTAssertEqual(ledger.failures, [], "round \(round)")
      XCTAssertEqual(heap.statistics.liveBlocks, 0, "round \(round)")
      XCTAssertEqual(try heap.verify().problems, [], "round \(round)")
      XCTAssertEqual(try reopened(heap).statistics.liveBlocks, 0, "round \(round)")
    }
  }

  /// More threads than there are slots, lanes and shares.
  func testFiveHundredThreads() throws {
    let heap = try makeHeap(quarantine: .none, shares: 4)
    let threads = Threads()
    let ledger = Ledger()
    for t in 0..<600 as Range<UInt64> {
      threads.run {
        do throws(NVMError) {
          let link = try heap.rootLink(named: "\(t % 8)")
          var own: [Offset] = []
          for i in 0..<12 {
            own.append(try heap.allocate(byteCount: 40 + Int(t) % 100))
            try heap.publish { publication throws(NVMError) in
              let p = try publication.reserve(byteCount: 100)
              own.append(p)
              if i & 1 == 0 { try publication.deallocate(own.removeFirst()) }
            }
          }
          _ = heap.region.load(link)
          try heap.deallocate(contentsOf: own)
        } catch {
          ledger.fail("\(error)")
        }
      }
    }
    threads.wait()
    XCTAssertEqual(ledger.failures, [])
    XCTAssertEqual(try heap.verify().problems, [])
    XCTAssertEqual(heap.statistics.liveBlocks, 0)
  }
}
