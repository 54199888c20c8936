import ArgumentParser
import CBench
import Foundation

struct StoreCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "store",
    abstract: "Stores: ours, LMDB, SQLite, RocksDB; by changes per commit, writers, and kind of keys.")
  @OptionGroup var options: Options

  func run() throws {
    try runSuite(options) { results, directory in
      try options.forEachRound(results) { round in
        // On a disk every sync counts milliseconds: one kind is enough.
        for kind in options.media == .emulated ? [StoreKind.words, .bytes] : [.words] {
          try StoreRound(options: options, results: results, directory: directory, round: round, kind: kind)
            .run()
        }
      }
    }
  }
}

/// One round: all stores are loaded alike and take turns, a stretch of each workload at a time.
struct StoreRound {
  let options: Options
  let results: Results
  let directory: String
  let round: Int
  let kind: StoreKind
  private var n: Int { options.size(options.media == .inplace ? 20_000 : 1_000_000) }
  private var space: KeySpace { KeySpace(seed: options.seed &+ UInt64(round) &* 0x1_0000_0000) }
  /// SQLite's integers have a sign; the order is the same for all below 2^63.
  private func key(_ i: Int) -> UInt64 { space.key(i) >> 1 }
  private var suffix: String { kind == .words ? "" : ", 16–64 B keys, 100 B values" }
  private var isDisk: Bool { options.media != .emulated }

  /// Operations of a measurement, by changes per commit: about a second for the slowest.
  private func operations(_ perCommit: Int) -> Int {
    let many =
      switch options.media {
      case .inplace: [1: 300, 100: 500, 1000: 2000, 10_000: 10_000]
      case .file: [1: 300, 100: 2000, 1000: 10_000, 10_000: 50_000]
      case .emulated: [1: 30_000, 100: 100_000, 1000: 200_000, 10_000: 200_000]
      }
    let count = many[perCommit] ?? 10_000
    return max(perCommit, options.quick ? count / 10 / perCommit * perCommit : count)
  }

  func run() throws {
    defer {
      for name in Stores.names {
        try? FileManager.default.removeItem(atPath: Stores.directory(name, in: directory))
      }
    }
    let all = try Stores.names.filter { options.wants(peer: $0) }
      .compactMap { try Stores.open($0, in: directory, kind: kind, options: options) }
    defer { for c in all { c.close() } }
    let one = Team(1, all, cpuTime: options.cpuTime)
    defer { one.stop() }
    let loaded = (0..<n).map(key)
    // What an untimed load by 10,000 per commit took is a figure too.
    play("load by 10,000", all, one, loaded, op: BENCH_INSERT, perCommit: 10_000, stretches: 1, always: true)
    for c in all {
      let bytes = Double(Stores.bytesOnDisk(c.name, in: directory)) / Double(n)
      results.add(resultKey("load by 10,000", 1), c.name, extra: "bytes on disk per entry", bytes)
    }
    var random = Random(seed: options.seed &+ 5)
    let reads = (0..<min(n, 200_000)).map { _ in key(Int.random(in: 0..<n, using: &random)) }
    play("look-up hit", all, one, reads, op: BENCH_LOOKUP)
    play("look-up miss", all, one, (0..<reads.count).map { key(10 * n + $0) }, op: BENCH_MISS)
    play("scan 100", all, one, Array(reads.prefix(reads.count / 10)), op: BENCH_SCAN + 100)
    scanAll(all, one)

    var fresh = n
    func new(_ count: Int) -> [UInt64] {
      defer { fresh += count }
      return (fresh..<fresh + count).map(key)
    }
    latency(all, one, new, reads)
    for perCommit in [1, 100, 1000, 10_000] {
      play(
        "insert, \(perCommit) per commit", all, one, new(operations(perCommit)), op: BENCH_INSERT,
        perCommit: perCommit)
    }
    play("update, 1 per commit", all, one, Array(reads.prefix(operations(1))), op: BENCH_UPDATE, version: 1)
    let doomed = (0..<operations(1)).map { key($0) }
    play("delete, 1 per commit", all, one, doomed, op: BENCH_DELETE)
    ycsb(all, one, doomed.count, &random, new)
    guard kind == .words else { return }
    for writers in [2, 8] {
      let team = Team(writers, all, cpuTime: options.cpuTime)
      defer { team.stop() }
      for perCommit in [1, 100] {
        // Of a stretch of ten syncs the slowest one would decide.
        let count = operations(perCommit) * max(1, writers / 2) / (perCommit * writers) * perCommit * writers
        play(
          "insert, \(perCommit) per commit", all, team, new(max(count, perCommit * writers)),
          op: BENCH_INSERT,
          perCommit: perCommit)
      }
    }
  }

  private func ycsb(
    _ all: [any StoreContestant], _ one: Team, _ deleted: Int, _ random: inout Random,
    _ new: (Int) -> [UInt64]
  ) {
    // The first keys are gone by now.
    let zipf = Zipfian(n - deleted)
    for (number, (name, reads)) in [("A", 50), ("B", 95), ("C", 100), ("E", 95)].enumerated()
    where options.wants(workload: "YCSB \(name)") {
      let count = operations(1)
      var fresh = new(count)
      var ops: [UInt8] = []
      var keys: [UInt64] = []
      for _ in 0..<count {
        let isRead = Int.random(in: 0..<100, using: &random) < reads
        let known = key(deleted + zipf.index(&random))
        switch (name, isRead) {
        case ("E", true):
          ops.append(UInt8(BENCH_SCAN + Int.random(in: 1...100, using: &random)))
          keys.append(known)
        case ("E", false):
          ops.append(UInt8(BENCH_INSERT))
          keys.append(fresh.removeLast())
        default:
          ops.append(UInt8(isRead ? BENCH_LOOKUP : BENCH_UPDATE))
          keys.append(known)
        }
      }
      play("YCSB \(name)", all, one, keys, ops: ops, version: UInt32(number + 1) << 28)
    }
  }

  private func resultKey(_ workload: String, _ threads: Int) -> Results.Key {
    Results.Key(
      suite: "store", workload: workload + suffix, media: options.mediaName, threads: threads, n: n)
  }

  /// Each thread has a share of the keys; contestants in turn, stretch by stretch.
  private func play(
    _ name: String, _ all: [any StoreContestant], _ team: Team, _ keys: [UInt64], op: Int = 0,
    ops: [UInt8]? = nil,
    perCommit: Int = 1, version: UInt32 = 0, stretches wanted: Int = 4, always: Bool = false
  ) {
    guard always || options.wants(workload: name) else { return }
    // The floor only appends, and the twin is only read.
    let isInsert = op == BENCH_INSERT && ops == nil
    let isRead = [BENCH_LOOKUP, BENCH_MISS].contains(op) && ops == nil
    let all = all.filter {
      (isInsert || $0.name != Stores.floor) && (isRead || always || $0.name != Stores.twin)
    }
    // A stretch is a whole number of commits for each thread; the last one takes what is left over.
    let unit = perCommit * team.count
    let stretches = max(1, min(wanted, keys.count / unit))
    var checksums = [UInt64](repeating: 0, count: all.count)
    for s in 0..<stretches {
      let from = keys.count / unit * s / stretches * unit
      let to = s == stretches - 1 ? keys.count : keys.count / unit * (s + 1) / stretches * unit
      for turn in 0..<all.count {
        let c = (turn + s + round) % all.count
        let job = StoreJob(
          team.sessions(of: all[c]), Array(keys[from..<to]), ops.map { Array($0[from..<to]) }, team.count)
        job.batch.op = UInt8(op)
        job.batch.per_commit = UInt32(perCommit)
        job.batch.version = version &+ UInt32(from)
        let ns = team.workers.run { job.run($0) }
        var sample = Sample(ns: ns, operations: to - from)
        (sample.counts, sample.counted) = (job.counts, to - from)
        results.add(
          resultKey(name, team.count), all[c].name, sample, batch: perCommit > 1 ? perCommit : nil)
        results.check(job.wrong, "\(all[c].name), \(name)\(suffix)")
        checksums[c] &+= job.checksum
      }
    }
    if Set(checksums).count > 1 { results.check(1, "the stores read different things, \(name)\(suffix)") }
  }

  private func scanAll(_ all: [any StoreContestant], _ one: Team) {
    guard options.wants(workload: "full scan, per entry") else { return }
    for _ in 0..<3 {
      for c in all where c.name != Stores.floor && c.name != Stores.twin {
        let job = StoreJob(one.sessions(of: c), [], nil, 1)
        job.isScan = true
        let ns = one.workers.run { job.run($0) }
        results.check(job.wrong + (job.entries == UInt64(n) ? 0 : 1), "\(c.name), full scan\(suffix)")
        results.add(
          resultKey("full scan, per entry", 1), c.name, Sample(ns: ns, operations: Int(job.entries)))
      }
    }
  }

  private func latency(
    _ all: [any StoreContestant], _ one: Team, _ new: (Int) -> [UInt64], _ reads: [UInt64]
  ) {
    for (name, keys, op) in [
      ("look-up hit", reads, BENCH_LOOKUP), ("insert, 1 per commit", new(operations(1)), BENCH_INSERT),
    ] where options.wants(workload: name) {
      let ticks = UnsafeMutableBufferPointer<UInt32>.allocate(capacity: keys.count)
      defer { ticks.deallocate() }
      for c in all where c.name != Stores.twin && (op == BENCH_INSERT || c.name != Stores.floor) {
        let job = StoreJob(one.sessions(of: c), keys, nil, 1)
        job.batch.op = UInt8(op)
        job.batch.ticks = ticks.baseAddress
        _ = one.workers.run { job.run($0) }
        results.check(job.wrong, "\(c.name), latency of \(name)\(suffix)")
        results.add(resultKey(name, 1), c.name, ticks: UnsafeBufferPointer(ticks))
      }
    }
  }
}

/// Threads that stay, each with a session of its own for every store.
final class Team: @unchecked Sendable {
  let workers: Workers
  private var all: [ObjectIdentifier: [(any StoreSession)?]] = [:]
  private let lock = NSLock()
  var count: Int { workers.count }

  init(_ count: Int, _ stores: [any StoreContestant], cpuTime: Bool) {
    workers = Workers(count, cpuTime: cpuTime)
    for store in stores {
      let id = ObjectIdentifier(store)
      all[id] = Array(repeating: nil, count: count)
      let box = Unchecked(store)
      _ = workers.run { [self] thread in
        let session = box.value.session()
        lock.withLock { all[id]![thread] = session }
      }
    }
  }
  func sessions(of store: any StoreContestant) -> [(any StoreSession)?] { all[ObjectIdentifier(store)]! }
  func stop() {
    // On the threads that they belong to.
    for sessions in all.values {
      let box = Unchecked(sessions)
      _ = workers.run { box.value[$0]?.end() }
    }
    all = [:]
    workers.stop()
  }
}

/// Handed to threads that use it one at a time.
struct Unchecked<Value>: @unchecked Sendable {
  let value: Value
  init(_ value: Value) { self.value = value }
}

/// What the threads of one stretch share.
private final class StoreJob: @unchecked Sendable {
  let sessions: [(any StoreSession)?]
  let keys: [UInt64]
  let ops: [UInt8]?
  let threads: Int
  var batch = bench_batch()
  var isScan = false
  private(set) var wrong: UInt64 = 0
  private(set) var checksum: UInt64 = 0
  private(set) var entries: UInt64 = 0
  private(set) var counts: Counts?
  private let lock = NSLock()

  init(_ sessions: [(any StoreSession)?], _ keys: [UInt64], _ ops: [UInt8]?, _ threads: Int) {
    self.sessions = sessions
    self.keys = keys
    self.ops = ops
    self.threads = threads
  }
  func run(_ thread: Int) {
    var outcome = bench_outcome()
    var spent: Counts?
    if let session = sessions[thread] {
      let before = session.counts
      let from = keys.count * thread / threads
      let to = keys.count * (thread + 1) / threads
      if isScan {
        session.scanAll(&outcome)
      } else {
        keys.withUnsafeBufferPointer { keys in
          var mine = batch
          mine.keys = keys.baseAddress! + from
          mine.count = to - from
          if let ops {
            ops.withUnsafeBufferPointer {
              mine.ops = $0.baseAddress! + from
              session.run(mine, &outcome)
            }
          } else {
            session.run(mine, &outcome)
          }
        }
      }
      if let before, let after = session.counts { spent = after - before }
    } else {
      outcome.wrong = 1
    }
    lock.withLock {
      wrong += outcome.wrong
      checksum &+= outcome.checksum
      entries += outcome.entries
      if let spent {
        counts = counts ?? Counts()
        counts! += spent
      }
    }
  }
}
