import ArgumentParser
import CBench
import Foundation
import NVMRegion

enum Media: String, ExpressibleByArgument, CaseIterable {
  case emulated, inplace, file
}

struct Options: ParsableArguments {
  @Option(help: "Size of the data set (entries, objects, operations); each suite has its own default.")
  var n: Int?
  @Option(help: "Numbers of threads to measure with, for instance 1,2.")
  var threads: String = "1"
  @Option(help: "Goes on with more rounds until this many seconds have passed.")
  var seconds: Double = 0
  @Option(
    help:
      "emulated: memory driven as persistent memory (tmpfs). inplace: a file, synced page by page. file: a file with a journal."
  )
  var media: Media = .emulated
  @Option(
    help: "Directory for the files; default /dev/shm for emulated, the temporary directory for others.")
  var path: String?
  @Option(help: "Only these peers, separated by commas; a part of the name is enough. 'none' for us alone.")
  var peers: String?
  @Option(help: "Rounds, at least; contestants alternate within each.")
  var runs: Int = 3
  @Option(help: "Only workloads whose name contains one of these, separated by commas.")
  var workloads: String?
  @Option(help: "Seed of all keys and sizes.")
  var seed: UInt64 = 20_260_101
  @Flag(
    help:
      "Processor time of the threads instead of wall time, for tree, heap and look-ups of stores: on a machine with other work."
  )
  var cpuTime = false
  @Option(help: "MiB that may rest in our heaps: HeapOptions.quarantineLimit.")
  var quarantineLimit: Int?
  @Flag(help: "A fiftieth of the size and one round: does it work?")
  var quick = false
  @Option(help: "Write the rows to this file as a JSON array.")
  var json: String?
  @Option(help: "Write SVG charts into this directory.")
  var plot: String?

  var rounds: Int { quick ? 1 : max(runs, 1) }
  /// The rounds, numbered.
  func forEachRound(_ results: Results, _ body: (Int) throws -> Void) throws {
    let end = bench_ns() + UInt64(max(0, seconds) * 1e9)
    var round = 0
    while round < rounds || bench_ns() < end {
      results.beginRound(round)
      try body(round)
      round += 1
    }
  }
  func size(_ standard: Int) -> Int { max(1000, (n ?? standard) / (quick && n == nil ? 50 : 1)) }
  var threadCounts: [Int] { threads.split(separator: ",").compactMap { Int($0) }.filter { $0 > 0 } }

  func wants(peer name: String) -> Bool {
    guard let peers else { return true }
    if name == ours { return true }
    return peers.split(separator: ",").contains { name.localizedCaseInsensitiveContains($0) }
  }
  func wants(workload name: String) -> Bool {
    guard let workloads else { return true }
    return workloads.split(separator: ",").contains { name.localizedCaseInsensitiveContains($0) }
  }

  /// Nanoseconds of the clock that suites without input and output are timed by.
  func now() -> UInt64 { cpuTime ? bench_cpu_ns() : bench_ns() }

  var mediaName: String {
    switch media {
    case .emulated: "emulated persistent memory"
    case .inplace: "in-place file"
    case .file: "journaled file"
    }
  }
  var mediaChoice: RegionOptions.MediaChoice {
    switch media {
    case .emulated: .emulated
    case .inplace: .inPlaceFile
    case .file: .journaledFile
    }
  }
  var regionOptions: RegionOptions {
    RegionOptions(media: mediaChoice)
  }

  /// A fresh directory for one suite, removed afterwards.
  func withDirectory<R>(_ body: (String) throws -> R) throws -> R {
    let parent = path ?? (media == .emulated ? "/dev/shm" : NSTemporaryDirectory())
    let directory = parent + "/nvm-bench-\(getpid())"
    try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: directory) }
    return try body(directory)
  }
}
