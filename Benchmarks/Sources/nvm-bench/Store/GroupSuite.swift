import ArgumentParser
import CBench
import Foundation
import NVM

struct GroupCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "groups",
    abstract: "Persist groups: region stores and tree inserts that are told later, beside durable-on-return.")
  @OptionGroup var options: Options

  func run() throws {
    try runSuite(options) { results, directory in
      try options.forEachRound(results) { _ in
        try GroupRun(options: options, results: results, directory: directory).run()
      }
    }
  }
}

struct GroupRun {
  let options: Options
  let results: Results
  let directory: String
  private static let tasks = 64

  func run() throws {
    try words()
    try inserts()
    try concurrentTasks()
  }

  private func key(_ workload: String, _ n: Int) -> Results.Key {
    Results.Key(suite: "groups", workload: workload, media: options.mediaName, threads: 1, n: n)
  }

  /// One word to a line of its own, in a permutation; by itself, a hundred under one group, and a
  /// hundred flushed by hand before one fence.
  private func words() throws {
    let workload = "store a word"
    guard options.wants(workload: workload), options.media == .emulated else { return }
    let n = options.size(1_000_000)
    let region = try PersistentRegion.create(
      at: directory + "/words.nvm", size: 65 << 20, options: options.regionOptions)
    defer {
      try? region.close()
      unlink(directory + "/words.nvm")
    }
    region.fill(region.payloadStart, count: 64 << 20)
    let base = region.payloadStart
    func place(_ i: Int) -> Offset { base + (i &* 0x9E3779B1 & 0xF_FFFF) * 64 }
    let group = region.makePersistGroup()
    let contestants: [(String, (Int) throws -> Void)] = [
      (
        ours,
        { i in
          try region.store(1, at: place(i), in: group); if i % 100 == 99 { try group.wait() }
        }
      ),
      (
        "durable on return",
        { i in
          region.store(2, at: place(i))
          try region.persist(place(i), count: 8)
        }
      ),
      (
        "flushed by hand",
        { i in
          region.store(3, at: place(i))
          region.flush(place(i), count: 8)
          if i % 100 == 99 { try region.fence() }
        }
      ),
    ]
    for s in 0..<10 {
      for turn in 0..<3 {
        let (name, body) = contestants[(turn + s) % 3]
        let range = n * s / 10..<n * (s + 1) / 10
        let before = Counts(region.threadCounters)
        let began = options.now()
        for i in range { try body(i) }
        try region.fence()
        results.add(
          key(workload, n), name,
          Sample(
            ns: options.now() - began, operations: range.count,
            counts: Counts(region.threadCounters) - before,
            counted: range.count))
      }
    }
  }

  /// Random inserts into two trees that grow side by side: each durable by itself, and a hundred under one group.
  private func inserts() throws {
    let workload = "insert"
    guard options.wants(workload: workload), options.media == .emulated else { return }
    let n = options.size(1_000_000)
    let store = try NVMStore(
      path: directory + "/inserts.nvm", options: NVMStoreOptions(media: options.mediaChoice))
    defer {
      try? store.close()
      unlink(directory + "/inserts.nvm")
    }
    let keys = KeySpace(seed: options.seed)
    let group = store.makePersistGroup()
    let grouped = try store.tree("grouped", of: UInt64.self, UInt64.self)
    let durable = try store.tree("durable", of: UInt64.self, UInt64.self)
    let contestants: [(String, (Int) throws -> Void)] = [
      (
        ours,
        { i in
          try grouped.setValue(1, forKey: keys.key(i), in: group)
          if i % 100 == 99 { try group.wait() }
        }
      ),
      ("durable on return", { i in try durable.setValue(1, forKey: keys.key(i)) }),
    ]
    for s in 0..<20 {
      for turn in 0..<2 {
        let (name, body) = contestants[(turn + s) % 2]
        let range = n * s / 20..<n * (s + 1) / 20
        let before = Counts(store.region.threadCounters)
        let began = options.now()
        for i in range { try body(i) }
        results.add(
          key(workload, n), name,
          Sample(
            ns: options.now() - began, operations: range.count,
            counts: Counts(store.region.threadCounters) - before, counted: range.count))
      }
    }
    results.check(grouped.count == n && durable.count == n ? 0 : 1, workload)
  }

  /// Single inserts into one tree by many tasks that each await theirs; and one after the other.
  private func concurrentTasks() throws {
    let workload = "insert, told when it is durable"
    guard options.wants(workload: workload) else { return }
    let n = options.size(20_000)
    let store = try NVMStore(
      path: directory + "/groups.nvm",
      options: NVMStoreOptions(media: options.mediaChoice))
    defer {
      try? store.close()
      unlink(directory + "/groups.nvm")
    }
    let tree = try store.tree("t", of: UInt64.self, UInt64.self)
    let keys = KeySpace(seed: options.seed)
    let single = n / 10
    var began = bench_ns()
    for i in 0..<single { try tree.setValue(1, forKey: keys.key(i)) }
    results.add(
      key(workload, n), "one after the other", Sample(ns: bench_ns() - began, operations: single))
    began = bench_ns()
    let done = DispatchSemaphore(value: 0)
    Task.detached {
      await withTaskGroup(of: Void.self) { group in
        for t in 0..<Self.tasks {
          group.addTask {
            for i in stride(from: single + t, to: single + n, by: Self.tasks) {
              let persist = store.makePersistGroup()
              try? tree.setValue(1, forKey: keys.key(i), in: persist)
              try? await persist.persisted()
            }
          }
        }
      }
      done.signal()
    }
    done.wait()
    results.add(key(workload, n), ours, Sample(ns: bench_ns() - began, operations: n))
    results.check(tree.count == n + single ? 0 : 1, workload)
  }
}
