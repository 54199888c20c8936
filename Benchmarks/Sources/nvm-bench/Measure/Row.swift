import CBench
import Foundation

/// One line of the results: a contestant on a workload. What was not measured is nil and absent in JSON.
struct Row: Codable {
  var suite: String
  var workload: String
  var contestant: String
  var media: String
  var threads: Int
  /// Size of the data set, or operations where there is none.
  var n: Int
  /// Operations made durable together, where more than one.
  var batch: Int?
  /// Median over the rounds.
  var nsPerOp: Double
  /// (largest - smallest) / median over the rounds.
  var spread: Double?
  /// Store fences: those that wait for durability and those that only order. Lines written back; bytes stored.
  var fencesPerOp: Double?
  var linesPerOp: Double?
  var bytesPerOp: Double?
  /// Nanoseconds of single operations, the reading of the clock (about 20 ns) included.
  var p50: Double?
  var p99: Double?
  var p999: Double?
  /// nsPerOp / nsPerOp of swift-nvm on the same workload in the same run: above 1 we are faster.
  var ratioToOurs: Double?
  /// What does not fit above, by name: footprints, wear, bytes on disk.
  var extra: [String: Double]?
}

let ours = "swift-nvm"

/// What a batch cost the medium.
struct Counts {
  var fences: UInt64 = 0
  var lines: UInt64 = 0
  var bytes: UInt64 = 0

  static func - (a: Counts, b: Counts) -> Counts {
    Counts(fences: a.fences &- b.fences, lines: a.lines &- b.lines, bytes: a.bytes &- b.bytes)
  }
  static func += (a: inout Counts, b: Counts) {
    a.fences &+= b.fences
    a.lines &+= b.lines
    a.bytes &+= b.bytes
  }
}

/// One timed stretch of work.
struct Sample {
  var ns: UInt64 = 0
  var operations = 0
  var counts: Counts?
  /// Operations that `counts` are of.
  var counted = 0

  var nsPerOp: Double { Double(ns) / Double(max(operations, 1)) }
  static func += (a: inout Sample, b: Sample) {
    a.ns += b.ns
    a.operations += b.operations
    if let counts = b.counts {
      a.counts = a.counts ?? Counts()
      a.counts! += counts
      a.counted += b.counted
    }
  }
}

extension Sample {
  /// Takes the time of a stretch and, where that costs nothing, its counts. Where counting costs something
  /// (`countsApart`), one stretch in the middle is counted and not timed.
  static func of(
    operations: Int, countsApart: Bool, isMiddle: Bool, now: () -> UInt64, counts: () -> Counts?,
    _ body: () -> Void
  ) -> Sample {
    let counting = countsApart && isMiddle
    if counting { bench_pmem_count(1) }
    let before = !countsApart || counting ? counts() : nil
    let began = now()
    body()
    var sample = Sample(ns: now() - began, operations: operations)
    if let before, let after = counts() {
      sample.counts = after - before
      sample.counted = operations
    }
    if counting {
      bench_pmem_count(0)
      (sample.ns, sample.operations) = (0, 0)
    }
    return sample
  }
}
