import ArgumentParser
import CBench
import Foundation

struct LargeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "large",
    abstract: "Look-ups in stores larger than the memory: for a limit see larger-than-memory.sh.")
  @OptionGroup var options: Options
  @Option(help: "Look-ups of each store in a round.")
  var reads: Int = 8_000

  func run() throws {
    try runSuite(options) { results, directory in
      try LargeRun(options: options, results: results, directory: directory, reads: reads).run()
    }
  }
}

/// Each store is filled and closed by itself; then all are open and take turns. The program's own memory stays small.
struct LargeRun {
  let options: Options
  let results: Results
  let directory: String
  let reads: Int

  private var names: [String] {
    Stores.names.filter {
      ![Stores.floor, Stores.twin, Stores.oneCall].contains($0) && options.wants(peer: $0)
    }
  }

  func run() throws {
    let n = options.size(8_000_000)
    let row = Results.Key(
      suite: "large", workload: "look-up", media: options.mediaName, threads: 1, n: n)
    let perCommit = 10_000
    for name in names {
      guard let store = try Stores.open(name, in: directory, kind: .words, options: options),
        let session = store.session()
      else { continue }
      // In key order, so that filling is not what the run consists of. Of the numbers below 2^62 each n-th.
      for from in stride(from: 0, to: n, by: perCommit) {
        play(session, (from..<min(n, from + perCommit)).map { ordered($0, n) }, BENCH_INSERT, perCommit, name)
      }
      session.end()
      store.close()
      let bytes = Double(Stores.bytesOnDisk(name, in: directory))
      results.add(row, name, extra: "MiB on disk", bytes / 1_048_576)
    }
    let all = try names.compactMap { try Stores.open($0, in: directory, kind: .words, options: options) }
    let sessions = all.map { $0.session() }
    var random = Random(seed: options.seed &+ 9)
    try options.forEachRound(results) { round in
      for stretch in 0..<4 {
        let keys = (0..<reads / 4).map { _ in ordered(Int.random(in: 0..<n, using: &random), n) }
        for turn in 0..<all.count {
          let c = (turn + stretch + round) % all.count
          guard let session = sessions[c] else { continue }
          let began = bench_ns()
          play(session, keys, BENCH_LOOKUP, 1, all[c].name)
          results.add(row, all[c].name, Sample(ns: bench_ns() - began, operations: keys.count))
        }
      }
    }
    for (store, session) in zip(all, sessions) {
      session?.end()
      store.close()
    }
  }

  private func ordered(_ i: Int, _ n: Int) -> UInt64 { UInt64(i) * (1 << 62 / UInt64(n)) }

  private func play(
    _ session: any StoreSession, _ keys: [UInt64], _ op: Int, _ perCommit: Int, _ name: String
  ) {
    var outcome = bench_outcome()
    keys.withUnsafeBufferPointer {
      var batch = bench_batch()
      batch.keys = $0.baseAddress!
      batch.count = $0.count
      batch.op = UInt8(op)
      batch.per_commit = UInt32(perCommit)
      session.run(batch, &outcome)
    }
    results.check(outcome.wrong, "\(name), large")
  }
}
