import NVMRegion
import NVMalloc
import XCTest

/// Small runs of operations on a medium that shows what a crash at each fence may leave; each image is opened
/// and compared with what had been acknowledged and what was in flight.
final class CrashTests: XCTestCase {
  /// What must be there: roots by name with the bytes of the block they lead to, and no other live block.
  typealias Content = [String: UInt64]

  final class Run {
    let medium = CrashMedium()
    let heap: PersistentHeap
    let maximumSize: Int
    var allowed: [Content] = [[:]]
    var images = 0
    var replayed = 0
    var recoveryImages = 0
    var failures: [String] = []
    var generator: SplitMix
    var operation = ""

    init(seed: UInt64, size: Int, maximumSize: Int) throws {
      generator = SplitMix(seed: seed)
      self.maximumSize = maximumSize
      let region = try PersistentRegion.inMemory(
        image: nil, size: size, maximumSize: maximumSize, medium: medium)
      medium.didGrow(to: size)
      heap = try PersistentHeap.format(region, options: options())
      for i in 0..<6 { _ = try heap.rootLink(named: "r\(i)") }
    }

    func watch() {
      medium.beforeFence = { [unowned self] medium in
        for image in medium.images(&generator) {
          images += 1
          check(image)
        }
      }
    }

    func check(_ image: [UInt8]) {
      do {
        let opened = try openImage(image, maximumSize: maximumSize)
        try judge(opened)
        let again = try reopened(opened)
        try judge(again)
        if again.recovery.replayedRecords != 0 { failures.append("\(operation): recovery is not final") }
        if opened.recovery.replayedRecords > 0 {
          replayed += 1
          if replayed % 40 == 0 { try crashRecovery(of: image) }
        }
        // Life goes on.
        let p = try opened.allocate(byteCount: 100)
        try opened.deallocate(p)
      } catch {
        failures.append("\(operation): \(error)")
      }
    }

    /// A second crash, at every fence of the recovery.
    func crashRecovery(of image: [UInt8]) throws {
      let second = CrashMedium(image: image)
      var inner: [[UInt8]] = []
      second.beforeFence = { [unowned self] in inner += $0.images(&generator, random: 2) }
      _ = try openImage(image, maximumSize: maximumSize, medium: second)
      for image in inner {
        recoveryImages += 1
        try judge(try openImage(image, maximumSize: maximumSize))
      }
    }

    func judge(_ opened: PersistentHeap) throws {
      var content: Content = [:]
      var linked: Set<Offset> = []
      for name in opened.rootNames {
        guard let p = try opened.root(named: name), !p.isNull else { continue }
        let info = try opened.info(of: p)
        linked.insert(p)
        let first = opened.region.load(p)
        let last = opened.region.load(p + (info.length - 8) & ~7)
        if first != last { failures.append("\(operation): torn payload under \(name)") }
        content[name] = first
      }
      if !allowed.contains(content) { failures.append("\(operation): \(content) is not among \(allowed)") }
      let live = Set(try opened.blocks.map(\.payload))
      if live != linked {
        failures.append("\(operation): leaked or lost: \(live.symmetricDifference(linked))")
      }
      let report = try opened.verify()
      if !report.isClean { failures.append("\(operation): \(report.problems)") }
      if !opened.recovery.problems.isEmpty { failures.append("\(operation): \(opened.recovery.problems)") }
    }
  }

  private func run(seed: UInt64, operations: Int, size: Int, maximumSize: Int) throws -> Run {
    let run = try Run(seed: seed, size: size, maximumSize: maximumSize)
    let heap = run.heap
    run.watch()
    var random = SplitMix(seed: seed ^ 0xABCD)
    var content: Content = [:]
    var stamp: UInt64 = 1
    func fill(_ p: Offset, _ bytes: Int, _ value: UInt64) {
      for i in stride(from: 0, to: bytes & ~7, by: 8) { heap.region.store(value, at: p + i) }
    }
    for step in 0..<operations {
      let name = "r\(UInt64.random(in: 0..<6, using: &random))"
      let link = try heap.rootLink(named: name)
      let bytes = [16, 40, 64, 300, 1000, 3000, 9000, 20_000].randomElement(using: &random)!
      stamp += 1
      let value = stamp
      var after = content
      var didFail = false
      if content[name] == nil {
        after[name] = value
        run.allowed = [content, after]
        run.operation = "seed \(seed) step \(step) place \(bytes)"
        do {
          try heap.place(byteCount: bytes, into: link) { p in fill(p, bytes, value) }
        } catch {
          XCTAssertEqual(error.code, .outOfSpace)
          didFail = true
        }
      } else if Bool.random(using: &random) {
        after[name] = nil
        run.allowed = [content, after]
        run.operation = "seed \(seed) step \(step) remove"
        try heap.remove(from: link)
      } else {
        // Replace one, and drop or make another, in one step.
        let other = "r\(UInt64.random(in: 0..<6, using: &random))"
        after[name] = value
        if other != name { after[other] = nil }
        run.allowed = [content, after]
        run.operation = "seed \(seed) step \(step) publish \(bytes)"
        let before = content
        do {
          try heap.publish { publication throws(NVMError) in
            let new = try publication.reserve(byteCount: bytes)
            fill(new, bytes, value)
            heap.region.flush(new, count: bytes)
            try publication.deallocate(Offset(rawValue: heap.region.load(link)))
            try publication.set(new.rawValue, at: link)
            if other != name, before[other] != nil {
              let otherLink = try heap.rootLink(named: other)
              try publication.deallocate(Offset(rawValue: heap.region.load(otherLink)))
              try publication.set(0, at: otherLink)
            }
          }
        } catch {
          XCTAssertEqual(error.code, .outOfSpace)
          didFail = true
        }
      }
      if !didFail { content = after }
      run.allowed = [content]
      run.operation += " acknowledged"
      run.check(run.medium.image { _, _ in 0 })
      if !run.failures.isEmpty { break }
    }
    return run
  }

  func testEveryFenceOfARun() throws {
    var images = 0
    var replayed = 0
    var second = 0
    for seed in 1...3 as ClosedRange<UInt64> {
      let run = try run(seed: seed, operations: 20, size: 64 << 10, maximumSize: 256 << 10)
      XCTAssertEqual(run.failures.prefix(3), [], "seed \(seed)")
      images += run.images
      replayed += run.replayed
      second += run.recoveryImages
    }
    print("crash images opened: \(images), with a record to replay \(replayed), crashed again \(second)")
    XCTAssertGreaterThan(replayed, 100)
  }

  /// A record too large for the ring, cut at every fence.
  func testOverflowRecord() throws {
    let run = try Run(seed: 9, size: 128 << 10, maximumSize: 256 << 10)
    let heap = run.heap
    let p = try heap.place(byteCount: 8 * 64, into: try heap.rootLink(named: "r0")) { p in
      for i in 0..<64 { heap.region.store(1, at: p + 8 * i) }
    }
    run.allowed = [["r0": 1], ["r0": 2]]
    run.operation = "overflow"
    run.watch()
    try heap.publish { publication throws(NVMError) in
      for i in 0..<64 { try publication.set(2, at: p + 8 * i) }
    }
    XCTAssertEqual(run.failures.prefix(3), [])
    XCTAssertGreaterThan(run.images, 10)
    for i in 0..<64 { XCTAssertEqual(heap.region.load(p + 8 * i), 2) }
    XCTAssertEqual(try heap.verify().problems, [])
  }

  /// In-place and moving reallocation, cut at every fence: the block has the old length or the new one.
  func testReallocate() throws {
    for (from, to) in [(100, 104), (100, 90), (9000, 9500), (100, 400), (9000, 100), (9000, 30_000)] {
      let run = try Run(seed: 3, size: 128 << 10, maximumSize: 256 << 10)
      let heap = run.heap
      var p = try heap.allocate(byteCount: from, owner: OwnerToken(rawValue: 5))
      var lengths: Set<Int> = []
      run.medium.beforeFence = { medium in
        for image in medium.images(&run.generator) {
          do {
            let opened = try openImage(image, maximumSize: 256 << 10)
            let blocks = try opened.blocks
            XCTAssertEqual(blocks.count, 1, "\(from) → \(to)")
            XCTAssertEqual(blocks.first?.owner.rawValue, 5)
            lengths.insert(blocks.first?.length ?? -1)
            XCTAssertEqual(try opened.verify().problems, [])
          } catch {
            XCTFail("\(from) → \(to): \(error)")
          }
        }
      }
      p = try heap.reallocate(p, byteCount: to)
      XCTAssertEqual(lengths, [from, to])
      XCTAssertEqual(try heap.info(of: p).length, to)
    }
  }

  /// Plain allocation and freeing, growth with a moving table: whatever is acknowledged is there.
  func testAllocationAndGrowth() throws {
    let medium = CrashMedium()
    let region = try PersistentRegion.inMemory(
      image: nil, size: 48 << 10, maximumSize: 1 << 20, medium: medium)
    medium.didGrow(to: 48 << 10)
    let heap = try PersistentHeap.format(region, options: options())
    var live: Set<Offset> = []
    var inFlight: Offset?
    var random = SplitMix(seed: 77)
    var images = 0
    var failure: String?
    medium.beforeFence = { medium in
      guard failure == nil else { return }
      for image in medium.images(&random).prefix(6) {
        images += 1
        do {
          let opened = try openImage(image, maximumSize: 1 << 20)
          let found = Set(try opened.blocks.map(\.payload))
          // At most one block more or less: the one in flight.
          let difference = found.symmetricDifference(live)
          if difference.count > 1 || difference.first.map({ live.contains($0) && $0 != inFlight }) == true {
            failure = "\(found.count) blocks instead of \(live.count)"
          }
          let report = try opened.verify()
          if !report.isClean || !opened.recovery.problems.isEmpty { failure = "\(report.problems)" }
        } catch {
          failure = "\(error)"
        }
      }
    }
    for step in 0..<120 {
      // Sorted: the order of a set differs from process to process, and with it the run.
      if step % 3 == 2, let p = live.sorted().randomElement(using: &random) {
        inFlight = p
        try heap.deallocate(p)
        live.remove(p)
        inFlight = nil
      } else {
        let size = [30, 700, 5000, 9000, 30_000].randomElement(using: &random)!
        live.insert(try heap.allocate(byteCount: size))
      }
      if let failure {
        XCTFail("step \(step): \(failure)")
        break
      }
    }
    XCTAssertGreaterThan(region.size, 400 << 10)
    print("crash images opened: \(images)")
  }
}
