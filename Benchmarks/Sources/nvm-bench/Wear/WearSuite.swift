import ArgumentParser
import CBench
import Foundation
import NVMRegion
import PeerHeaps

struct WearCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "wear",
    abstract:
      "How evenly allocations are spread: per 64-byte line the most and the mean, and their variation.")
  @OptionGroup var options: Options

  func run() throws {
    try runSuite(options) { results, directory in
      results.beginRound(0)
      try WearRun(options: options, results: results, directory: directory).run()
    }
  }
}

/// Three workloads in 64 MiB. Counted is, over the lines that were used at all, how often each was flushed (headers, logs,
/// tables and all else in the file; ours and libpmemobj's, the application itself flushes nothing), and how often each
/// came to be the start of a block's bytes (everyone's). What making the file wrote is left out: it is as many lines as
/// the file has tables, once each, and would make the mean look low.
struct WearRun {
  let options: Options
  let results: Results
  let directory: String

  private struct Workload {
    var name: String
    var live: Int
    var size: (inout Random) -> Int
  }

  func run() throws {
    let workloads = [
      Workload(name: "replace 64 B, 1,000 live", live: 1000) { _ in 64 },
      // 3,900 blocks of 8.4 KiB on average: half of the heap.
      Workload(name: "replace 16 B–64 KiB, half full", live: 3900) { Trace.logUniform(16...65_536, &$0) },
      Workload(name: "the same 64 B again and again", live: 1) { _ in 64 },
    ]
    for workload in workloads where options.wants(workload: workload.name) { try run(workload) }
  }

  private func contestants(live: Int) throws -> [any HeapContestant] {
    var region = options.regionOptions
    region.countsWear = true
    region.maximumSize = 64 << 20
    var contestants: [any HeapContestant] = [
      try OurHeap(directory: directory, slots: live, limit: options.quarantineLimit, options: region),
      try OurHeap(directory: directory, slots: live, placement: .leastAllocated, options: region),
      try OurHeap(directory: directory, slots: live, rests: false, options: region),
    ]
    var tables = [bench_heap_glibc(), bench_heap_jemalloc(), bench_heap_mimalloc()]
    if options.media == .emulated { tables.insert(bench_heap_pmemobj_atomic(), at: 0) }
    for table in tables {
      guard let table, options.wants(peer: String(cString: table.pointee.name)) else { continue }
      if let peer = PeerHeap(
        table, directory: directory, bytes: 128 << 20, slots: live, batch: 1, counted: false)
      {
        contestants.append(peer)
      }
    }
    return contestants
  }

  private func run(_ workload: Workload) throws {
    let n = options.size(10_000_000)
    let live = workload.live
    let workers = Workers(1)
    defer { workers.stop() }
    let key = Results.Key(
      suite: "wear", workload: workload.name, media: options.mediaName, threads: 1, n: n)
    for c in try contestants(live: live) {
      var random = Random(seed: options.seed)
      var starts: [UInt64: UInt32] = [:]
      var wrong: UInt64 = 0
      let made = (c as? OurHeap)?.wear?.writes ?? []
      bench_pmem_watch_lines(1)
      bench_pmem_count(1)
      let began = bench_ns()
      for i in -live..<n {
        let slot = i < 0 ? UInt32(i + live) : UInt32.random(in: 0..<UInt32(live), using: &random)
        let steps = [
          bench_step(slot: slot, size: 0), bench_step(slot: slot, size: UInt32(workload.size(&random))),
        ]
        var outcome = bench_outcome()
        steps.withUnsafeBufferPointer {
          c.run(
            thread: 0, i < 0 ? UnsafeBufferPointer(rebasing: $0[1...]) : $0, ticks: nil, &outcome)
        }
        wrong += outcome.wrong
        starts[c.address(ofSlot: Int(slot)) >> 6, default: 0] += 1
      }
      bench_pmem_count(0)
      results.check(wrong, c.name)
      results.add(key, c.name, Sample(ns: bench_ns() - began, operations: n))
      let blocks = LineWear.figures(Array(starts.values))
      results.add(key, c.name, extra: "blocks, max / mean", blocks.imbalance)
      if let wear = (c as? OurHeap)?.wear {
        let writes = LineWear.figures(
          wear.writes.indices.map { wear.writes[$0] - ($0 < made.count ? made[$0] : 0) })
        results.add(key, c.name, extra: "flushes, max / mean", writes.imbalance)
        results.add(key, c.name, extra: "most on one line", Double(writes.maximum))
        results.add(key, c.name, extra: "lines flushed", Double(writes.lines))
        results.add(key, c.name, extra: "hottest at, KiB", Double(writes.hottest.bytes >> 10))
      } else if c.name.hasPrefix("libpmemobj") {
        let lines = bench_pmem_lines()
        results.add(key, c.name, extra: "flushes, max / mean", lines.maximum * lines.lines / lines.total)
        results.add(key, c.name, extra: "most on one line", lines.maximum)
        results.add(key, c.name, extra: "lines flushed", lines.lines)
      }
      bench_pmem_watch_lines(0)
      c.close()
    }
  }
}
