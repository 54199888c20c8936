import ArgumentParser
import CBench
import Foundation
import NVMRegion
import PeerTrees

struct TreeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "tree",
    abstract:
      "8-byte keys and values: ours, libpmemobj, LMDB; absl::btree_map and std::map as volatile floors.")
  @OptionGroup var options: Options

  func run() throws {
    try runSuite(options) { results, directory in
      try options.forEachRound(results) { round in
        try TreeRound(options: options, results: results, directory: directory, round: round).run()
      }
    }
  }
}

/// One round: all contestants are open at once and take turns, a stretch of each workload at a time.
struct TreeRound {
  let options: Options
  let results: Results
  let directory: String
  let n: Int
  let steady: Int
  let space: KeySpace
  let round: Int
  private let stretches = 10

  init(options: Options, results: Results, directory: String, round: Int) {
    self.options = options
    self.results = results
    self.directory = directory
    self.round = round
    n = options.size(5_000_000)
    // Operations of a workload that leaves the size as it is.
    steady = min(n, 1_000_000)
    space = KeySpace(seed: options.seed &+ UInt64(round) &* 0x1_0000_0000)
  }

  func contestants() throws -> [any TreeContestant] {
    var all: [any TreeContestant] = [
      try OurTree(directory: directory, bytes: 64 << 20, options: options.regionOptions)
    ]
    func add(_ make: @autoclosure () -> PeerTree?, _ name: String) {
      if options.wants(peer: name), let peer = make() { all.append(peer) }
    }
    add(PeerTree(bench_tree_absl(), directory: directory, bytes: 0), "absl::btree_map")
    add(PeerTree(bench_tree_std(), directory: directory, bytes: 0), "std::map")
    if options.media == .emulated {
      add(
        PeerTree(bench_tree_pmemobj(), directory: directory, bytes: (64 << 20) + n * 80, counted: true),
        "libpmemobj")
    }
    add(PeerTree(bench_tree_lmdb(), directory: directory, bytes: 16 << 30, perCommit: 1000), "LMDB")
    return all
  }

  func run() throws {
    let all = try contestants()
    defer {
      for c in all { c.close() }
      for file in (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? [] {
        unlink(directory + "/" + file)
      }
    }
    var random = Random(seed: options.seed &+ 77 &+ UInt64(round))
    let present = (0..<steady).map { _ in space.key(Int.random(in: 0..<n, using: &random)) }

    workload("insert random", all, space.keys(0..<n), op: BENCH_INSERT, always: true)
    workload("look-up hit", all, present, op: BENCH_LOOKUP)
    workload("look-up miss", all, space.keys(2 * n..<2 * n + steady), op: BENCH_MISS)
    workload("update", all, present, op: BENCH_UPDATE, version: 1)
    workload("look-up in batches", all, present, op: BENCH_LOOKUP, together: true)
    workload("update in batches", all, present, op: BENCH_UPDATE, version: 3, together: true)
    let starts = present.prefix(max(steady / 20, 100)).map { $0 >> 1 }
    workload("scan 100", all, starts, op: BENCH_SCAN + 100)
    scanAll(all)

    // Half look-ups, half inserts of new keys.
    var ops: [UInt8] = []
    var keys: [UInt64] = []
    var fresh = n
    for i in 0..<steady {
      if i % 2 == 0 {
        ops.append(UInt8(BENCH_LOOKUP))
        keys.append(present[i])
      } else {
        ops.append(UInt8(BENCH_INSERT))
        keys.append(space.key(fresh))
        fresh += 1
      }
    }
    workload("mixed 50/50", all, keys, ops: ops)
    let more = space.keys(fresh..<fresh + steady)
    workload("insert in batches", all, more, op: BENCH_INSERT, together: true)
    if wants("insert in batches") { fresh += steady }
    ycsb(all, &random, &fresh)
    latency(all, present, &fresh)
    if let tree = all[0] as? OurTree { threads(tree, present, &fresh) }

    // Distinct keys that are there, in random order.
    let doomed = (0..<steady).map { space.key($0 * (n / steady)) }.shuffled(using: &random)
    workload("delete", all, doomed, op: BENCH_DELETE)
    sequential()
    texts()
    verifying()
  }

  private func ycsb(_ all: [any TreeContestant], _ random: inout Random, _ fresh: inout Int) {
    let zipf = Zipfian(n)
    for (name, reads) in [("A", 50), ("B", 95), ("C", 100), ("E", 95)] where wants("YCSB \(name)") {
      let isScan = name == "E"
      let count = isScan ? max(steady / 20, 100) : steady
      var ops: [UInt8] = []
      var keys: [UInt64] = []
      for _ in 0..<count {
        let isRead = Int.random(in: 0..<100, using: &random) < reads
        var key = space.key(zipf.index(&random))
        if isScan {
          // A scan from the key or the next below the largest; an insert of a new key.
          if isRead { ops.append(UInt8(BENCH_SCAN + Int.random(in: 1...100, using: &random))) }
          if !isRead {
            ops.append(UInt8(BENCH_INSERT))
            key = space.key(fresh)
            fresh += 1
          }
        } else {
          ops.append(UInt8(isRead ? BENCH_LOOKUP : BENCH_UPDATE))
        }
        keys.append(key)
      }
      workload("YCSB \(name)", all, keys, ops: ops)
    }
  }

  func wants(_ name: String) -> Bool { options.wants(workload: name) }

  func key(_ workload: String, threads: Int = 1, n: Int? = nil) -> Results.Key {
    Results.Key(suite: "tree", workload: workload, media: options.mediaName, threads: threads, n: n ?? self.n)
  }

  /// Stretch by stretch, each contestant in turn; who begins changes.
  private func workload(
    _ name: String, _ all: [any TreeContestant], _ keys: [UInt64], op: Int = 0, ops: [UInt8]? = nil,
    version: UInt32 = 0, always: Bool = false, together: Bool = false, n: Int? = nil
  ) {
    guard always || wants(name) || (ops?.contains(UInt8(BENCH_INSERT)) ?? false) else { return }
    var outcomes = [bench_outcome](repeating: bench_outcome(), count: all.count)
    keys.withUnsafeBufferPointer { keys in
      for s in 0..<stretches {
        let from = keys.count * s / stretches
        let to = keys.count * (s + 1) / stretches
        for turn in 0..<all.count {
          let c = (turn + s + round) % all.count
          var batch = bench_batch()
          batch.keys = keys.baseAddress! + from
          batch.count = to - from
          batch.op = UInt8(op)
          batch.version = version
          let contestant = all[c]
          if op == BENCH_INSERT || ops != nil { WarmMemory.prepare() }
          let sample = Sample.of(
            operations: to - from, countsApart: contestant.countsApart, isMiddle: s == stretches / 2,
            now: options.now, counts: { contestant.counts }
          ) {
            if let ops {
              ops.withUnsafeBufferPointer {
                batch.ops = $0.baseAddress! + from
                contestant.run(batch, &outcomes[c])
              }
            } else if together {
              contestant.runTogether(batch, &outcomes[c])
            } else {
              contestant.run(batch, &outcomes[c])
            }
          }
          results.add(key(name, n: n), all[c].name, sample, batch: all[c].batch)
        }
      }
    }
    agree(name, all, outcomes)
  }

  /// Right answers, and the same ones.
  private func agree(_ name: String, _ all: [any TreeContestant], _ outcomes: [bench_outcome]) {
    for (c, o) in zip(all, outcomes) {
      results.check(o.wrong, "\(c.name), \(name)")
      if o.checksum != outcomes[0].checksum || o.entries != outcomes[0].entries {
        results.check(1, "\(c.name) and \(all[0].name) read different things, \(name)")
      }
    }
  }

  private func scanAll(_ all: [any TreeContestant]) {
    guard wants("full scan, per entry") else { return }
    for _ in 0..<3 {
      var outcomes: [bench_outcome] = []
      for c in all {
        var outcome = bench_outcome()
        let began = options.now()
        c.scanAll(&outcome)
        let sample = Sample(ns: options.now() - began, operations: Int(outcome.entries))
        results.add(key("full scan, per entry"), c.name, sample)
        outcomes.append(outcome)
      }
      results.check(outcomes[0].entries == UInt64(n) ? 0 : 1, "full scan met \(outcomes[0].entries) entries")
      agree("full scan", all, outcomes)
    }
  }

  /// Single operations timed one by one. LMDB's commit falls on every thousandth.
  private func latency(_ all: [any TreeContestant], _ present: [UInt64], _ fresh: inout Int) {
    let count = min(steady, 200_000)
    let new = space.keys(fresh..<fresh + count)
    fresh += count
    let ticks = UnsafeMutableBufferPointer<UInt32>.allocate(capacity: count)
    defer { ticks.deallocate() }
    let kinds: [(String, [UInt64], Int)] = [
      ("look-up hit", present, BENCH_LOOKUP), ("update", present, BENCH_UPDATE),
      ("insert random", new, BENCH_INSERT),
      ("delete", new, BENCH_DELETE),
    ]
    for (name, keys, op) in kinds where wants(name) {
      for c in all {
        var outcome = bench_outcome()
        keys.withUnsafeBufferPointer {
          var batch = bench_batch()
          batch.keys = $0.baseAddress!
          batch.count = count
          batch.op = UInt8(op)
          batch.version = 2
          batch.ticks = ticks.baseAddress!
          c.run(batch, &outcome)
        }
        results.check(outcome.wrong, "\(c.name), latency of \(name)")
        results.add(key(name), c.name, ticks: UnsafeBufferPointer(ticks))
      }
    }
  }

  /// Ascending keys into trees of their own.
  private func sequential() {
    let name = "insert sequential"
    guard wants(name) else { return }
    let below = directory + "/sequential"
    try? FileManager.default.createDirectory(atPath: below, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: below) }
    let other = TreeRound(options: options, results: results, directory: below, round: round)
    guard let all = try? other.contestants() else { return }
    workload(name, all, (1...steady).map { UInt64($0) }, op: BENCH_INSERT, always: true, n: steady)
    for c in all { c.close() }
  }
}
