import ArgumentParser
import CBench
import Foundation
import NVM

struct AmplificationCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "amplification",
    abstract: "Bytes written to the disk for each byte of user data, over the size of the store.")
  @OptionGroup var options: Options
  @Option(help: "Changes per commit, separated by commas.")
  var commits: String = "100,1000,10000"
  @Option(
    help: "How often our journal goes round at least. RocksDB makes as many changes as ours then has made.")
  var laps: Double = 10
  @Option(help: "The most changes that RocksDB makes, the slowest of those with a log.")
  var rocksdbChanges: Int = .max
  @Option(
    help: "Changes that LMDB and SQLite make at most: they write pages in place and are steady soon.")
  var peerChanges: Int = 200_000
  @Option(help: "Sizes of stores in entries, separated by commas.")
  var sizes: String = "100000,300000,1000000,3000000"

  func run() throws {
    guard options.media == .file else { throw ValidationError("Bytes are counted on a disk: --media file.") }
    try runSuite(options) { results, directory in
      results.beginRound(0)
      let sizes = options.n.map { [$0] } ?? self.sizes.split(separator: ",").compactMap { Int($0) }
      for n in sizes {
        for perCommit in commits.split(separator: ",").compactMap({ Int($0) }) {
          let run = AmplificationRun(
            options: options, results: results, directory: directory, n: n, perCommit: perCommit,
            laps: options.quick ? 1 : laps, peerChanges: peerChanges, rocksdbChanges: rocksdbChanges)
          try run.run()
        }
      }
    }
  }
}

/// One store after the other is loaded, closed, opened, changed at random keys until it is steady, and closed. Counted
/// are the bytes from the second opening to the end of the closing, so that checkpoints and what a store leaves for
/// later are in it. Values change and keys stay: the store keeps its size.
struct AmplificationRun {
  static let suite = "amplification"
  static let figure = "bytes written per byte"
  static let deviceFigure = "of the device"
  /// A key and a value.
  private static let userBytes = 16.0

  let options: Options
  let results: Results
  let directory: String
  let n: Int
  let perCommit: Int
  let laps: Double
  let peerChanges: Int
  let rocksdbChanges: Int

  private func key(_ i: Int) -> UInt64 { KeySpace(seed: options.seed).key(i) >> 1 }

  func run() throws {
    var changesOfOurs = 0
    for name in Stores.names where name != Stores.floor && name != Stores.twin && options.wants(peer: name) {
      let isOurs = name.hasPrefix(ours)
      let most =
        isOurs
        ? Int.max : name == "RocksDB" ? min(max(changesOfOurs, peerChanges), rocksdbChanges) : peerChanges
      let changes = try measure(name, most: most)
      if isOurs { changesOfOurs = max(changesOfOurs, changes) }
    }
  }

  /// Returns how many changes were made.
  private func measure(_ name: String, most: Int) throws -> Int {
    defer { try? FileManager.default.removeItem(atPath: Stores.directory(name, in: directory)) }
    try with(name) { session, _ in
      for from in stride(from: 0, to: n, by: 10_000) {
        change(session, (from..<min(n, from + 10_000)).map(key), 0, name)
      }
      return 0
    }
    sync()
    let before = DiskWrites(below: directory)
    var random = Random(seed: options.seed &+ 17)
    var ns: UInt64 = 0
    var laps = 0.0
    var appended = 0.0
    let changes = try with(name) { session, store in
      var changes = 0
      let atOnce = max(perCommit, 10_000)
      while changes < most, laps < self.laps {
        let keys = (0..<atOnce).map { _ in key(Int.random(in: 0..<n, using: &random)) }
        let began = bench_ns()
        change(session, keys, UInt32(truncatingIfNeeded: changes), name)
        ns += bench_ns() - began
        changes += atOnce
        if let journal = store.journal {
          appended = Double(journal.appended)
          laps = appended / Double(journal.capacity)
        }
      }
      return changes
    }
    sync()
    let written = DiskWrites(below: directory) - before
    let row = Results.Key(
      suite: Self.suite, workload: "update, \(perCommit) per commit", media: options.mediaName, threads: 1,
      n: n)
    results.add(row, name, Sample(ns: ns, operations: changes), batch: perCommit)
    let user = Double(changes) * Self.userBytes
    results.add(row, name, extra: Self.figure, written.process / user)
    if let device = written.device { results.add(row, name, extra: Self.deviceFigure, device / user) }
    if laps > 0 {
      results.add(row, name, extra: "laps", laps)
      results.add(row, name, extra: "of records", appended / user)
    }
    return changes
  }

  @discardableResult
  private func with(_ name: String, _ body: (any StoreSession, any StoreContestant) throws -> Int) throws
    -> Int
  {
    guard let store = try Stores.open(name, in: directory, kind: .words, options: options),
      let session = store.session()
    else {
      results.check(1, "\(name) could not be opened")
      return 0
    }
    defer {
      session.end()
      store.close()
    }
    return try body(session, store)
  }

  private func change(_ session: any StoreSession, _ keys: [UInt64], _ version: UInt32, _ name: String) {
    var outcome = bench_outcome()
    keys.withUnsafeBufferPointer {
      var batch = bench_batch()
      batch.keys = $0.baseAddress!
      batch.count = keys.count
      batch.op = UInt8(BENCH_UPDATE)
      batch.per_commit = UInt32(perCommit)
      batch.version = version
      session.run(batch, &outcome)
    }
    results.check(outcome.wrong, "\(name), \(perCommit) per commit")
  }
}
