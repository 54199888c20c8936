import ArgumentParser
import CBench
import Foundation
import NVMBTree
import NVMRegion
import NVMalloc

struct ProtectCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "protect",
    abstract: "Stray-write protection: what a request costs, what a tree pays, and what is stopped, and when."
  )
  @OptionGroup var options: Options

  func run() throws {
    // Before the package's own handler, which hands on to it.
    bench_prepare_strays()
    try runSuite(options) { results, directory in
      try options.forEachRound(results) { _ in
        try ProtectRun(options: options, results: results, directory: directory).run()
      }
    }
  }
}

struct ProtectRun {
  let options: Options
  let results: Results
  let directory: String

  private func key(_ workload: String, _ n: Int) -> Results.Key {
    Results.Key(suite: "protect", workload: workload, media: options.mediaName, threads: 1, n: n)
  }
  private func regionOptions(_ protection: RegionProtection) -> RegionOptions {
    var result = options.regionOptions
    result.protection = protection
    return result
  }

  func run() throws {
    try requests()
    try inserts()
    try detection()
  }

  // MARK: Requests

  private func requests() throws {
    guard options.wants(workload: "requests") else { return }
    let n = options.size(1_000_000)
    let path = directory + "/requests.nvm"
    let region = try PersistentRegion.create(
      at: path, size: 64 << 20, options: regionOptions(.deferred(interval: .milliseconds(10))))
    defer {
      try? region.close()
      unlink(path)
    }
    var random = Random(seed: options.seed)
    let places = (0..<4096).map { _ in Offset(65536 * Int.random(in: 1..<1000, using: &random)) }
    for (name, body) in [
      (
        "to write, and to protect",
        { (at: Offset) throws -> Void in
          try region.makeWritable(at, count: 8)
          try region.protect(at, count: 8)
        }
      ),
      ("a store by the primitive", { (at: Offset) throws -> Void in region.store(1, at: at) }),
    ] {
      for at in places { try body(at) }
      let began = options.now()
      for i in 0..<n { try body(places[i & 4095]) }
      results.add(
        key("requests, \(name)", n), ours, Sample(ns: options.now() - began, operations: n))
    }
  }

  // MARK: Inserts

  /// A tree under one kind of protection.
  private final class Tree {
    let name: String
    let region: PersistentRegion
    let heap: PersistentHeap
    let tree: DurableBTree<UInt64, UInt64>

    init(_ name: String, _ path: String, _ options: RegionOptions) throws {
      self.name = name
      region = try PersistentRegion.create(at: path, size: 64 << 20, options: options)
      heap = try PersistentHeap.format(region)
      tree = try DurableBTree<UInt64, UInt64>.create(in: heap, number: 1)
    }
    func close() {
      tree.close()
      heap.close()
      try? region.close()
      unlink(region.path)
    }
  }

  private var protections: [(name: String, protection: RegionProtection)] {
    [
      (ours, .none), ("deferred, 1 ms", .deferred(interval: .milliseconds(1))),
      ("deferred, 10 ms", .deferred(interval: .milliseconds(10))),
      ("deferred, 100 ms", .deferred(interval: .milliseconds(100))), ("immediate", .immediate),
    ]
  }

  private func inserts() throws {
    let workload = "tree, random insert"
    guard options.wants(workload: workload) else { return }
    let n = options.size(1_000_000)
    let stretches = 20
    let keys = KeySpace(seed: options.seed)
    let trees = try protections.filter { options.wants(peer: $0.name) }.enumerated().map { i, p in
      try Tree(p.name, directory + "/tree\(i).nvm", regionOptions(p.protection))
    }
    defer { for tree in trees { tree.close() } }
    for s in 0..<stretches {
      for turn in trees.indices {
        let t = trees[(turn + s) % trees.count]
        let range = n * s / stretches..<n * (s + 1) / stretches
        // The slow one does a part of it, and has the rest by a quicker way.
        let timed = t.name == "immediate" ? range.prefix(range.count / 20) : range[...]
        let before = t.region.protectionStatistics
        let counts = Counts(t.region.threadCounters)
        let began = options.now()
        for i in timed { try t.tree.updateValue(UInt64(i), forKey: keys.key(i)) }
        let sample = Sample(
          ns: options.now() - began, operations: timed.count,
          counts: Counts(t.region.threadCounters) - counts,
          counted: timed.count)
        let after = t.region.protectionStatistics
        for i in range[timed.endIndex...] { try t.tree.updateValue(UInt64(i), forKey: keys.key(i)) }
        // The first half fills the tree.
        guard s >= stretches / 2 else { continue }
        results.add(key(workload, n), t.name, sample)
        results.add(
          key(workload, n), t.name, extra: "faults / 1,000",
          Double(after.faults - before.faults) * 1000 / Double(timed.count))
        results.add(
          key(workload, n), t.name, extra: "mprotect / 1,000",
          Double(after.changes - before.changes) * 1000 / Double(timed.count))
      }
    }
    var wrong: UInt64 = 0
    for t in trees where t.tree.count != n { wrong += 1 }
    results.check(wrong, workload)
  }

  // MARK: Detection

  /// A thread inserts at a steady rate. Beside it: single stray writes all over the file, each stopped or not; and
  /// pointers that are forgotten when their window closes and go on being stored through.
  private func detection() throws {
    let perSecond = 2000
    let workload = "stray writes beside \(perSecond) random inserts a second, 1,000 granules in use"
    guard options.wants(workload: workload) else { return }
    let quick = options.quick
    // The reports would bury the table.
    let error = dup(2)
    let null = open("/dev/null", O_WRONLY)
    defer {
      dup2(error, 2)
      close(error)
      close(null)
    }
    for ms in [0.1, 0.3, 1, 3, 10, 30, 100] {
      let interval = Duration.microseconds(Int64(ms * 1000))
      let t = try Tree("", directory + "/stray.nvm", regionOptions(.deferred(interval: interval)))
      defer { t.close() }
      let loaded = quick ? 100_000 : 1_800_000
      let keys = KeySpace(seed: options.seed)
      for i in 0..<loaded { try t.tree.updateValue(UInt64(i), forKey: keys.key(i)) }
      var extents: [BlockInfo] = []
      try t.heap.forEachBlock(tag: .treeNodes) { extents.append($0) }
      let writer = SteadyWriter(t.tree, keys, from: loaded, perSecond: perSecond)
      writer.start()
      // Until what the load has opened is closed.
      usleep(UInt32(ms * 5000) + 20_000)
      dup2(null, 2)
      var random = Random(seed: options.seed)
      var stopped = 0
      let strays = quick ? 300 : 3000
      for _ in 0..<strays {
        let block = extents.randomElement(using: &random)!
        let at = block.payload + Int.random(in: 0..<block.capacity, using: &random)
        if bench_stray(t.region.pointer(to: at)) != 0 { stopped += 1 }
        usleep(200)
      }
      var delays: [UInt64] = []
      let repeats = quick ? 5 : max(15, min(300, Int(3000 / ms)))
      for _ in 0..<repeats {
        let block = extents.randomElement(using: &random)!
        let at = block.payload + Int.random(in: 0..<block.capacity, using: &random)
        try t.region.withWritable(at, count: 1) { bytes in _ = bench_stray(bytes.baseAddress) }
        let began = bench_ns()
        while bench_stray(t.region.pointer(to: at)) == 0 { usleep(20) }
        delays.append(bench_ns() - began)
      }
      dup2(error, 2)
      writer.stop()
      delays.sort()
      let name = "deferred, \(SVG.time(ms * 1e6))"
      results.add(
        key(workload, strays), name, Sample(ns: delays[delays.count / 2], operations: 1))
      results.add(key(workload, strays), name, extra: DetectionChart.interval, ms)
      results.add(
        key(workload, strays), name, extra: DetectionChart.share, Double(stopped) / Double(strays))
      results.add(
        key(workload, strays), name, extra: "p90 delay ms", Double(delays[delays.count * 9 / 10]) / 1e6)
    }
  }
}

/// Inserts at a steady rate until it is stopped.
private final class SteadyWriter: @unchecked Sendable {
  private let tree: DurableBTree<UInt64, UInt64>
  private let keys: KeySpace
  private let first: Int
  private let gap: UInt64
  private let lock = NSLock()
  private var isOver = false
  private let done = DispatchSemaphore(value: 0)

  init(_ tree: DurableBTree<UInt64, UInt64>, _ keys: KeySpace, from first: Int, perSecond: Int) {
    self.tree = tree
    self.keys = keys
    self.first = first
    gap = 1_000_000_000 / UInt64(perSecond)
  }
  func start() {
    Thread {
      let began = bench_ns()
      var i = 0
      while !self.lock.withLock({ self.isOver }) {
        _ = try? self.tree.updateValue(0, forKey: self.keys.key(self.first + i))
        i += 1
        let due = began + UInt64(i) * self.gap
        let now = bench_ns()
        if due > now { usleep(UInt32((due - now) / 1000)) }
      }
      self.done.signal()
    }.start()
  }
  func stop() {
    lock.withLock { isOver = true }
    done.wait()
  }
}
