import CBench
import Foundation

/// Several threads on one tree. Ours alone: the volatile maps know of no threads.
extension TreeRound {
  func threads(_ tree: OurTree, _ present: [UInt64], _ fresh: inout Int) {
    for count in options.threadCounts {
      let workers = Workers(count, cpuTime: options.cpuTime)
      defer { workers.stop() }
      func together(_ name: String, _ keys: [UInt64], _ op: Int, ops: [UInt8]? = nil) {
        if op == BENCH_INSERT { WarmMemory.prepare() }
        let (wrong, ns) = run(workers, tree, keys, op, ops)
        results.check(wrong, "\(tree.name), \(name), \(count) threads")
        results.add(key(name, threads: count), tree.name, Sample(ns: ns, operations: keys.count))
      }
      var random = Random(seed: options.seed &+ UInt64(count))
      // By one thread too: the others' figures of "insert random" are of a tree that begins empty.
      if wants("insert more") {
        together("insert more", space.keys(fresh..<fresh + steady), BENCH_INSERT)
        fresh += steady
      }
      guard count > 1 else { continue }
      if wants("look-up hit") { together("look-up hit", present, BENCH_LOOKUP) }
      if wants("update") { together("update", present, BENCH_UPDATE) }
      let zipf = Zipfian(n)
      for (name, reads) in [("YCSB A", 50), ("YCSB B", 95), ("YCSB C", 100)] where wants(name) {
        let keys = (0..<steady).map { _ in space.key(zipf.index(&random)) }
        let ops = keys.map { _ in
          UInt8(Int.random(in: 0..<100, using: &random) < reads ? BENCH_LOOKUP : BENCH_UPDATE)
        }
        together(name, keys, 0, ops: ops)
      }
    }
    if wants("look-up beside a writer"), options.threadCounts.contains(where: { $0 > 1 }) {
      besideAWriter(tree, present, &fresh)
    }
  }

  /// Each thread takes its share of the keys.
  private func run(
    _ workers: Workers, _ tree: OurTree, _ keys: [UInt64], _ op: Int, _ ops: [UInt8]?
  ) -> (wrong: UInt64, ns: UInt64) {
    let shared = Unchecked((tree: tree, keys: keys, ops: ops, wrong: NSLock(), total: UnsafeCounter()))
    let ns = workers.run { i in
      let (tree, keys, ops, lock, total) = shared.value
      let from = keys.count * i / workers.count
      let to = keys.count * (i + 1) / workers.count
      var outcome = bench_outcome()
      var batch = bench_batch()
      batch.count = to - from
      batch.op = UInt8(op)
      batch.version = 5
      keys.withUnsafeBufferPointer { keys in
        batch.keys = keys.baseAddress! + from
        if let ops {
          ops.withUnsafeBufferPointer {
            batch.ops = $0.baseAddress! + from
            tree.run(batch, &outcome)
          }
        } else {
          tree.run(batch, &outcome)
        }
      }
      lock.withLock { total.value += outcome.wrong }
    }
    return (shared.value.total.value, ns)
  }

  /// Look-ups timed one by one while another thread inserts.
  private func besideAWriter(_ tree: OurTree, _ present: [UInt64], _ fresh: inout Int) {
    let count = min(steady, 200_000)
    let new = space.keys(fresh..<fresh + count)
    fresh += count
    let ticks = UnsafeMutableBufferPointer<UInt32>.allocate(capacity: count)
    defer { ticks.deallocate() }
    let workers = Workers(2)
    defer { workers.stop() }
    let shared = Unchecked((tree: tree, present: present, new: new, ticks: ticks, total: UnsafeCounter()))
    let ns = workers.run { i in
      let (tree, present, new, ticks, total) = shared.value
      var outcome = bench_outcome()
      (i == 0 ? present : new).withUnsafeBufferPointer {
        var batch = bench_batch()
        batch.keys = $0.baseAddress!
        batch.count = count
        batch.op = UInt8(i == 0 ? BENCH_LOOKUP : BENCH_INSERT)
        if i == 0 { batch.ticks = ticks.baseAddress! }
        tree.run(batch, &outcome)
      }
      if i == 0 { total.value = outcome.wrong }
    }
    let name = "look-up beside a writer"
    results.check(shared.value.total.value, "\(tree.name), \(name)")
    results.add(key(name, threads: 2), tree.name, Sample(ns: ns, operations: count))
    results.add(key(name, threads: 2), tree.name, ticks: UnsafeBufferPointer(ticks))
  }
}

private final class UnsafeCounter {
  var value: UInt64 = 0
}
