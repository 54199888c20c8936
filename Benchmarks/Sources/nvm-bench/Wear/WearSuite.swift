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

/// Blocks of 64 bytes, 1,000 live; each operation frees one at random and allocates another. Counted is on how many
/// allocations a line came to be the start of a block's bytes, over the lines that were used at all: what an
/// application that writes each block once would wear. Headers and logs are not in it: see the README.
struct WearRun {
  let options: Options
  let results: Results
  let directory: String

  func run() throws {
    let n = options.size(2_000_000)
    let live = 1000
    var random = Random(seed: options.seed)
    let workers = Workers(1)
    defer { workers.stop() }
    var contestants: [any HeapContestant] = [
      try OurHeap(directory: directory, slots: live, options: options.regionOptions)
    ]
    var tables = [bench_heap_glibc(), bench_heap_jemalloc(), bench_heap_mimalloc()]
    if options.media == .emulated { tables.insert(bench_heap_pmemobj_atomic(), at: 0) }
    for table in tables {
      guard let table, options.wants(peer: String(cString: table.pointee.name)) else { continue }
      if let peer = PeerHeap(
        table, directory: directory, bytes: 256 << 20, slots: live, batch: 1, counted: false)
      {
        contestants.append(peer)
      }
    }
    let slots = (0..<n).map { _ in UInt32.random(in: 0..<UInt32(live), using: &random) }
    let key = Results.Key(
      suite: "wear", workload: "replace 64 B, 1,000 live", media: options.mediaName, threads: 1, n: n)
    for c in contestants {
      var counts: [UInt64: Int] = [:]
      var wrong: UInt64 = 0
      let began = bench_ns()
      for i in -live..<n {
        let slot = i < 0 ? UInt32(i + live) : slots[i]
        let steps = [bench_step(slot: slot, size: 0), bench_step(slot: slot, size: 64)]
        var outcome = bench_outcome()
        steps.withUnsafeBufferPointer {
          c.run(
            thread: 0, i < 0 ? UnsafeBufferPointer(rebasing: $0[1...]) : $0, ticks: nil, &outcome)
        }
        wrong += outcome.wrong
        counts[c.address(ofSlot: Int(slot)) >> 6, default: 0] += 1
      }
      results.check(wrong, c.name)
      let values = counts.values.map(Double.init)
      let mean = values.reduce(0, +) / Double(values.count)
      let variance = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(values.count)
      results.add(key, c.name, Sample(ns: bench_ns() - began, operations: n))
      results.add(key, c.name, extra: "max / mean", values.max()! / mean)
      results.add(key, c.name, extra: "coefficient of variation", variance.squareRoot() / mean)
      results.add(key, c.name, extra: "lines used", Double(values.count))
      results.add(key, c.name, extra: "most on one line", values.max()!)
      c.close()
    }
  }
}
