import Foundation

/// Collects the samples of a run and makes the rows: medians over rounds, spread, ratios.
final class Results {
  struct Key: Hashable {
    var suite: String
    var workload: String
    var media: String
    var threads: Int
    var n: Int
  }
  struct Cell {
    /// By round, then by chunk.
    var samples: [Int: [Sample]] = [:]
    var ticks = LatencyHistogram()
    var batch: Int?
    var extra: [String: [Double]] = [:]
  }

  private(set) var order: [Key] = []
  private var contestants: [Key: [String]] = [:]
  private var cells: [Key: [String: Cell]] = [:]
  private(set) var wrong: UInt64 = 0
  private var round = 0

  func beginRound(_ round: Int) { self.round = round }

  private func change(_ key: Key, _ contestant: String, _ body: (inout Cell) -> Void) {
    if cells[key] == nil {
      order.append(key)
      cells[key] = [:]
    }
    if cells[key]![contestant] == nil { contestants[key, default: []].append(contestant) }
    body(&cells[key]![contestant, default: Cell()])
  }

  func add(_ key: Key, _ contestant: String, _ sample: Sample, batch: Int? = nil) {
    change(key, contestant) {
      $0.samples[round, default: []].append(sample)
      $0.batch = batch
    }
  }
  func add(_ key: Key, _ contestant: String, ticks: UnsafeBufferPointer<UInt32>) {
    change(key, contestant) { $0.ticks.record(ticks) }
  }
  func add(_ key: Key, _ contestant: String, extra name: String, _ value: Double) {
    change(key, contestant) { $0.extra[name, default: []].append(value) }
  }

  /// Wrong answers end the run at its end, after all of them were shown.
  func check(_ wrong: UInt64, _ what: @autoclosure () -> String) {
    guard wrong > 0 else { return }
    self.wrong += wrong
    print("WRONG: \(wrong) answers, \(what())")
  }

  var rows: [Row] {
    order.flatMap { key in
      let our = cells[key]![ours].flatMap(Self.figures)
      return contestants[key]!.compactMap { name -> Row? in
        guard let cell = cells[key]![name], let figures = Self.figures(cell) else { return nil }
        var row = Row(
          suite: key.suite, workload: key.workload, contestant: name, media: key.media, threads: key.threads,
          n: key.n, batch: cell.batch, nsPerOp: figures.median)
        row.spread = figures.spread
        if let counts = figures.total.counts {
          let n = Double(max(figures.total.counted, 1))
          row.fencesPerOp = Double(counts.fences) / n
          row.linesPerOp = Double(counts.lines) / n
          row.bytesPerOp = counts.bytes == 0 ? nil : Double(counts.bytes) / n
        }
        if let p = cell.ticks.percentiles { (row.p50, row.p99, row.p999) = p }
        if let our, our.median > 0, figures.median > 0 { row.ratioToOurs = figures.median / our.median }
        if !cell.extra.isEmpty { row.extra = cell.extra.mapValues { $0.sorted()[$0.count / 2] } }
        return row
      }
    }
  }

  private static func figures(_ cell: Cell) -> (median: Double, spread: Double?, total: Sample)? {
    var total = Sample()
    let rounds = cell.samples.values.map { chunks in
      var sum = Sample()
      for chunk in chunks { sum += chunk }
      total += sum
      return sum.nsPerOp
    }
    guard let median = median(rounds) else { return cell.extra.isEmpty ? nil : (0, nil, total) }
    // With one round, the stretches of it stand in for rounds.
    let values =
      rounds.count > 1
      ? rounds : cell.samples.values.flatMap { $0.filter { $0.operations > 0 }.map(\.nsPerOp) }
    let spread = values.count > 1 ? (values.max()! - values.min()!) / median : nil
    return (median, spread, total)
  }

  static func median(_ values: [Double]) -> Double? {
    guard !values.isEmpty else { return nil }
    let sorted = values.sorted()
    let middle = sorted.count / 2
    return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
  }
}
