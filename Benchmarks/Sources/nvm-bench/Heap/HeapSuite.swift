import ArgumentParser
import CBench
import Foundation
import NVMRegion
import PeerHeaps

struct HeapCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "heap",
    abstract: "Allocators: ours, libpmemobj, an ideal one as the floor; glibc, jemalloc, mimalloc (volatile)."
  )
  @OptionGroup var options: Options

  func run() throws {
    try runSuite(options) { results, directory in
      for threads in options.threadCounts where threads <= 8 {
        let workers = Workers(threads, cpuTime: options.cpuTime)
        defer { workers.stop() }
        try options.forEachRound(results) { round in
          try HeapRound(
            options: options, results: results, directory: directory, workers: workers, round: round
          )
          .run()
        }
      }
    }
  }
}

/// One round: all contestants are open at once and take turns, a stretch of each trace at a time.
struct HeapRound {
  let options: Options
  let results: Results
  let directory: String
  let workers: Workers
  let round: Int
  /// Objects of the bulk workloads; the others are scaled by it.
  private var n: Int { options.size(1_000_000) }
  private let stretches = 8
  /// T, the heap's default, in seconds.
  private static let quarantine = 0.2

  private func contestants(slots: Int, liveBytes: Int) throws -> [any HeapContestant] {
    let region = options.regionOptions
    var all: [any HeapContestant] = []
    func add(_ name: String, _ make: () throws -> (any HeapContestant)?) rethrows {
      if options.wants(peer: name), let made = try make() { all.append(made) }
    }
    let bytes = (1 << 30) + liveBytes * 3
    // Peers have all of their file from the start: what is compared is allocation, not how the system hands out pages.
    // Ours has as much as the workloads take, so that it need not grow either.
    let size = options.media == .emulated ? (64 << 20) + liveBytes * workers.count : 64 << 20
    func peer(_ name: String, _ table: UnsafePointer<bench_heap>?, batch: Int = 1, counted: Bool = false) {
      add(name) {
        PeerHeap(table!, directory: directory, bytes: bytes, slots: slots, batch: batch, counted: counted)
      }
    }
    all.append(
      try OurHeap(
        directory: directory, slots: slots, size: size, limit: options.quarantineLimit,
        options: region))
    peer("ideal nt", bench_heap_ideal_nt())
    if bench_has_clwb() != 0 { peer("ideal clwb", bench_heap_ideal_clwb()) }
    if options.media == .emulated {
      peer("libpmemobj atomic", bench_heap_pmemobj_atomic(), counted: true)
      peer("libpmemobj publish", bench_heap_pmemobj_publish(), counted: true)
      peer("libpmemobj publish ×16", bench_heap_pmemobj_publish(), batch: 16, counted: true)
      peer("libpmemobj atomic, linked", bench_heap_pmemobj_place(), counted: true)
    }
    try add("\(ours), no quarantine") {
      try OurHeap(directory: directory, slots: slots, size: size, rests: false, options: region)
    }
    for (interface, name, batch) in [
      (OurHeap.Interface.place, "place", 1), (.publish, "publish", 1), (.publish, "publish ×16", 16),
      (.deferred, "deferred ×16", 16), (.batch, "free ×64", 64),
    ] {
      try add("\(ours) \(name)") {
        try OurHeap(
          directory: directory, slots: slots, size: size, interface: interface, batch: batch, options: region)
      }
    }
    peer("glibc", bench_heap_glibc())
    peer("jemalloc", bench_heap_jemalloc())
    peer("mimalloc", bench_heap_mimalloc())
    return all
  }

  func run() throws {
    try workloads()
    try mixed()
  }

  /// In heaps of their own, so that the footprint is that of this workload.
  private func mixed() throws {
    let name = "mixed 16 B–64 KiB, 205 MiB live"
    guard options.wants(workload: name) else { return }
    let slots = 26_000
    let all = try contestants(slots: slots * workers.count, liveBytes: 400 << 20)
    defer { end(all) }
    var random = Random(seed: options.seed &+ 11 &+ UInt64(round))
    let trace = Trace.replacing(
      name, live: slots, count: max(n / 5, 1000), random: &random, isSmall: false, stepsPerOperation: 1
    ) { Trace.logUniform(16...65_536, &$0) }
    play(trace, all, slots, measuresFootprint: true)
  }

  private func end(_ all: [any HeapContestant]) {
    for c in all { c.close() }
    for file in (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? [] {
      unlink(directory + "/" + file)
    }
  }

  private func workloads() throws {
    let slots = max(n, 10_000)
    let all = try contestants(slots: slots * workers.count, liveBytes: 400 << 20)
    defer { end(all) }
    var random = Random(seed: options.seed &+ UInt64(round))
    let few = max(n / 5, 1000)
    play(.pairs("pair 64 B", size: 64, count: few), all, slots)
    play(.pairs("pair 4 KiB", size: 4096, count: few), all, slots)
    // Twice, so that the space has been used before.
    let warm = Trace.allocating("allocate 64 B, warm", count: n)
    if options.wants(workload: warm.name) { self.warm(all, slots) }
    play(warm, all, slots)
    play(.freeing("free 64 B, random order", count: n, random: &random), all, slots)
    play(
      .replacing("larson 16–512 B", live: 10_000, count: few, random: &random, isSmall: true) {
        Int.random(in: 16...512, using: &$0)
      }, all, slots, handOver: true)
    play(.threadTest("threadtest, pair", live: 10_000, count: few), all, slots)
    play(
      .replacing("replace 64 KiB–4 MiB", live: 32, count: max(few / 20, 200), random: &random, isSmall: false)
      {
        Trace.logUniform(65_536...4_194_304, &$0)
      }, all, slots)
    if workers.count == 2 { handOver(all, count: few) }
  }

  private func key(_ workload: String) -> Results.Key {
    Results.Key(
      suite: "heap", workload: workload, media: options.mediaName, threads: workers.count, n: n)
  }

  private func shifted(_ steps: [bench_step], _ by: Int) -> [bench_step] {
    by == 0 ? steps : steps.map { bench_step(slot: $0.slot + UInt32(by), size: $0.size) }
  }

  private func warm(_ all: [any HeapContestant], _ slots: Int) {
    let trace = Trace.allocating("", count: n)
    for c in all {
      _ = together(c, (0..<workers.count).map { shifted(trace.steps, $0 * slots) })
      _ = together(c, (0..<workers.count).map { shifted(trace.cleanUp, $0 * slots) })
    }
  }

  /// A list of steps on each thread; nanoseconds and counts.
  private func together(
    _ c: any HeapContestant, _ lists: [[bench_step]], ticks: UnsafeMutablePointer<UInt32>? = nil
  )
    -> (UInt64, Counts?)
  {
    let box = Box(lists, c, ticks)
    let ns = workers.run { box.run($0) }
    results.check(box.outcomes.reduce(0) { $0 + $1.wrong }, c.name)
    return (ns, box.total)
  }

  private func play(
    _ trace: Trace, _ all: [any HeapContestant], _ slots: Int, handOver: Bool = false,
    measuresFootprint: Bool = false
  ) {
    guard options.wants(workload: trace.name) else { return }
    let threads = workers.count
    let all = all.filter { c in
      (trace.isSmall || !(c.name.hasSuffix("place") || c.name.hasSuffix("linked")))
        && (trace.canGroup || !c.name.hasSuffix("publish ×16"))
    }
    for c in all { _ = together(c, (0..<threads).map { shifted(trace.prepare, $0 * slots) }) }
    // Stretches end between operations.
    let operations = trace.steps.count / 2
    var seconds: [String: Double] = [:]
    for s in 0..<stretches {
      let from = 2 * (operations * s / stretches)
      let to = s == stretches - 1 ? trace.steps.count : 2 * (operations * (s + 1) / stretches)
      // With larson's hand-over a thread frees what the other one allocated.
      let owner = { (t: Int) in handOver ? (t + s) % threads : t }
      let lists = (0..<threads).map { shifted(Array(trace.steps[from..<to]), owner($0) * slots) }
      for turn in 0..<all.count {
        let c = all[(turn + s + round) % all.count]
        let counting = c.countsApart && s == stretches / 2
        if counting { bench_pmem_count(1) }
        let (ns, counts) = together(c, lists)
        bench_pmem_count(0)
        seconds[c.name, default: 0] += Double(ns) / 1e9
        let operations = (to - from) * threads / trace.stepsPerOperation
        var sample = Sample(ns: ns * UInt64(threads), operations: operations)
        if !c.countsApart || counting { (sample.counts, sample.counted) = (counts, operations) }
        // What is slowed down by counting is not timed.
        if counting { (sample.ns, sample.operations) = (0, 0) }
        results.add(key(trace.name), c.name, sample, batch: c.batch)
      }
    }
    if measuresFootprint {
      var sizes: [UInt32: UInt32] = [:]
      var freed = 0
      for (i, step) in (trace.prepare + trace.steps).enumerated() {
        if i >= trace.prepare.count, step.size == 0 { freed += Int(sizes[step.slot]!) }
        sizes[step.slot] = step.size
      }
      let live = Double(sizes.values.reduce(0) { $0 + Int($1) } * threads)
      for c in all {
        results.add(key(trace.name), c.name, extra: "footprint / live", Double(c.footprint) / live)
        guard c is OurHeap, !c.name.hasSuffix("no quarantine"), !options.cpuTime else { continue }
        // What may rest, where everything freed does so for T.
        let resting = Double(freed * threads) / seconds[c.name]! * Self.quarantine
        results.add(key(trace.name), c.name, extra: "freed in T / live", resting / live)
        results.add(
          key(trace.name), c.name, extra: "footprint / (1.25 live + freed in T)",
          Double(c.footprint) / (1.25 * live + resting))
      }
    }
    latency(trace, all)
    for c in all { _ = together(c, (0..<threads).map { shifted(trace.cleanUp, $0 * slots) }) }
  }

  /// Single calls timed, allocations and frees together, on one thread.
  private func latency(_ trace: Trace, _ all: [any HeapContestant]) {
    guard workers.count == 1, trace.stepsPerOperation == 2 || trace.name.hasPrefix("mixed") else { return }
    let steps = Array(trace.steps.prefix(200_000))
    let ticks = UnsafeMutableBufferPointer<UInt32>.allocate(capacity: steps.count)
    defer { ticks.deallocate() }
    for c in all {
      _ = together(c, [steps], ticks: ticks.baseAddress)
      results.add(key(trace.name), c.name, ticks: UnsafeBufferPointer(ticks))
    }
  }

  /// One thread allocates, the other one frees.
  private func handOver(_ all: [any HeapContestant], count: Int) {
    let name = "producer → consumer 64 B"
    guard options.wants(workload: name) else { return }
    for s in 0..<stretches {
      for turn in 0..<all.count {
        let c = all[(turn + s + round) % all.count]
        if c.name.hasSuffix("linked") || c.name.hasSuffix("place") || c.batch != nil { continue }
        let box = HandOver(c, count / stretches)
        let ns = workers.run { box.run($0) }
        results.check(box.outcomes[0].wrong + box.outcomes[1].wrong, "\(c.name), \(name)")
        results.add(key(name), c.name, Sample(ns: ns, operations: count / stretches))
      }
    }
  }
}

/// What the threads of one stretch share. Each touches its own part.
private final class Box: @unchecked Sendable {
  let lists: [[bench_step]]
  let contestant: any HeapContestant
  let ticks: UnsafeMutablePointer<UInt32>?
  var outcomes: [bench_outcome]
  private var counts: [Counts?]
  private let lock = NSLock()

  init(_ lists: [[bench_step]], _ contestant: any HeapContestant, _ ticks: UnsafeMutablePointer<UInt32>?) {
    self.lists = lists
    self.contestant = contestant
    self.ticks = ticks
    outcomes = .init(repeating: bench_outcome(), count: lists.count)
    counts = .init(repeating: nil, count: lists.count)
  }
  func run(_ thread: Int) {
    var outcome = bench_outcome()
    let before = contestant.counts
    lists[thread].withUnsafeBufferPointer { contestant.run(thread: thread, $0, ticks: ticks, &outcome) }
    var spent: Counts?
    if let before, let after = contestant.counts { spent = after - before }
    lock.withLock {
      outcomes[thread] = outcome
      counts[thread] = spent
    }
  }
  var total: Counts? {
    guard counts.allSatisfy({ $0 != nil }) else { return nil }
    return counts.reduce(into: Counts()) { $0 += $1! }
  }
}

private final class HandOver: @unchecked Sendable {
  let contestant: any HeapContestant
  let count: Int
  let ring: UnsafeMutablePointer<bench_ring>
  var outcomes = [bench_outcome(), bench_outcome()]
  private let lock = NSLock()

  init(_ contestant: any HeapContestant, _ count: Int) {
    self.contestant = contestant
    self.count = count
    ring = .allocate(capacity: 1)
    ring.initialize(to: bench_ring())
  }
  deinit { ring.deallocate() }
  func run(_ thread: Int) {
    var outcome = bench_outcome()
    if thread == 0 {
      contestant.produce(thread: 0, ring, size: 64, count: count, &outcome)
    } else {
      contestant.consume(thread: 1, ring, count: count, &outcome)
    }
    lock.withLock { outcomes[thread] = outcome }
  }
}
