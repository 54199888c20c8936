import Foundation

/// Charts of a run: bars for each suite, lines of the stores by changes per commit.
enum Charts {
  struct Chart {
    var file: String
    var title: String
    var svg: String
  }

  /// Writes them; the file names in order.
  @discardableResult
  static func write(_ rows: [Row], to directory: String) throws -> [Chart] {
    try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
    let charts = make(rows)
    for chart in charts {
      try chart.svg.write(toFile: directory + "/" + chart.file, atomically: true, encoding: .utf8)
    }
    return charts
  }

  static func make(_ rows: [Row]) -> [Chart] {
    struct Group: Hashable {
      var suite: String
      var media: String
      var threads: Int
    }
    var groups: [Group] = []
    var byGroup: [Group: [Row]] = [:]
    for row in rows
    where row.nsPerOp > 0 && !DetectionChart.isDetection(row) && !AmplificationChart.isAmplification(row) {
      let group = Group(suite: row.suite, media: row.media, threads: row.threads)
      if byGroup[group] == nil { groups.append(group) }
      byGroup[group, default: []].append(row)
    }
    var charts: [Chart] = []
    for group in groups {
      // The in-place file and the journaled one have pictures of their own.
      let place =
        group.media.contains("emulated") ? "emulated" : group.media.contains("journal") ? "file" : "inplace"
      let threads = group.threads == 1 ? "" : ", \(group.threads) threads"
      if group.suite == "wear" {
        let title = "wear: the hottest line over the mean of those in use, \(group.media)"
        charts.append(
          Chart(
            file: "wear-\(place)-\(group.threads).svg", title: title,
            svg: WearChart.make(byGroup[group]!, title: title)))
        continue
      }
      let title = "\(group.suite): time per operation, \(group.media)\(threads)"
      charts.append(
        Chart(
          file: "\(group.suite)-\(place)-\(group.threads).svg", title: title,
          svg: bars(title, byGroup[group]!)))
      let byCommit = byGroup[group]!.filter { $0.workload.hasPrefix("insert, ") }
      if group.suite == "store", group.threads == 1, byCommit.count > 4 {
        let title = "store: insert by changes per commit, \(group.media)"
        charts.append(
          Chart(file: "store-commits-\(place).svg", title: title, svg: lines(title, byCommit)))
      }
    }
    if let chart = DetectionChart.make(rows) { charts.append(chart) }
    if let chart = AmplificationChart.make(rows) { charts.append(chart) }
    return charts
  }

  /// Ours first, the others as they come.
  private static func series(_ rows: [Row]) -> [String] {
    var names: [String] = [ours]
    for row in rows where !names.contains(row.contestant) { names.append(row.contestant) }
    return names
  }
  private static func color(_ name: String, _ names: [String]) -> Int {
    (names.firstIndex(of: name) ?? 0) % SVG.seriesCount
  }

  /// Horizontal bars on a logarithmic scale, one group for each workload.
  private static func bars(_ title: String, _ rows: [Row]) -> String {
    let names = series(rows)
    var workloads: [String] = []
    for row in rows {
      let name = workload(row)
      if !workloads.contains(name) { workloads.append(name) }
    }
    let values = rows.map(\.nsPerOp)
    let low = pow(10, floor(log10(values.min() ?? 1)))
    let high = pow(10, ceil(log10((values.max() ?? 10) * 1.01)))
    let left = 180.0
    let width = 900.0
    let span = width - left - 150
    let barHeight = 13.0
    let height = 70 + Double(rows.count) * barHeight + Double(workloads.count) * 30 + 20
    var svg = SVG(width: width, height: height)
    func x(_ v: Double) -> Double { left + span * (log10(v) - log10(low)) / max(1, log10(high) - log10(low)) }
    svg.text(title, 12, 24, class: "h")
    svg.text(
      "shorter is better; the scale is logarithmic; × is the time relative to swift-nvm", 12, 42, class: "l")
    var tick = low
    while tick <= high * 1.01 {
      svg.line(x(tick), 62, x(tick), height - 12)
      svg.text(SVG.time(tick), x(tick), 58, class: "l", anchor: "middle")
      tick *= 10
    }
    var y = 70.0
    for name in workloads {
      svg.text(name, 12, y + 14, class: "w")
      y += 20
      for row in rows where workload(row) == name {
        let label = row.batch.map { $0 > 1 && row.suite == "tree" ? " (\($0)/commit)" : "" } ?? ""
        svg.text(row.contestant + label, left - 8, y + 10, class: "l", anchor: "end")
        let ratio = row.contestant == ours ? nil : row.ratioToOurs
        let text = SVG.time(row.nsPerOp) + (ratio.map { String(format: "  %.2f×", $0) } ?? "")
        svg.bar(
          left, y + 1, x(row.nsPerOp) - left, barHeight - 2.5, series: color(row.contestant, names),
          title: "\(row.contestant): \(text)")
        svg.text(text, x(row.nsPerOp) + 6, y + 10, class: "l")
        y += barHeight
      }
      y += 10
    }
    return svg.text
  }

  private static func workload(_ row: Row) -> String {
    row.suite == "recovery" ? "\(row.workload), \(row.n) entries" : row.workload
  }

  /// Time for one insert over changes per commit; both scales logarithmic.
  private static func lines(_ title: String, _ rows: [Row]) -> String {
    let kinds = [("8-byte keys and values", false), ("16–64 B keys, 100 B values", true)]
    let names = series(rows)
    var svg = SVG(width: 900, height: 400)
    svg.text(title, 12, 24, class: "h")
    svg.text("lower is better; both scales are logarithmic", 12, 42, class: "l")
    let low = pow(10, floor(log10(rows.map(\.nsPerOp).min() ?? 1)))
    let high = pow(10, ceil(log10((rows.map(\.nsPerOp).max() ?? 10) * 1.01)))
    for (panel, (kind, isLong)) in kinds.enumerated() {
      let left = 70.0 + Double(panel) * 430
      let width = 330.0
      func y(_ v: Double) -> Double { 350 - 260 * (log10(v) - log10(low)) / max(1, log10(high) - log10(low)) }
      func x(_ commit: Int) -> Double { left + width * log10(Double(commit)) / 4 }
      svg.text(kind, left, 72, class: "w")
      var tick = low
      while tick <= high * 1.01 {
        svg.line(left, y(tick), left + width, y(tick))
        svg.text(SVG.time(tick), left - 6, y(tick) + 4, class: "l", anchor: "end")
        tick *= 10
      }
      for commit in [1, 100, 1000, 10_000] {
        svg.text("\(commit)", x(commit), 368, class: "l", anchor: "middle")
      }
      svg.text("changes per commit", left + width / 2, 386, class: "l", anchor: "middle")
      for name in names {
        let points = rows.filter { $0.contestant == name && $0.workload.hasSuffix("values") == isLong }
          .map { (commit: $0.batch ?? 1, ns: $0.nsPerOp) }.sorted { $0.commit < $1.commit }
        guard let last = points.last else { continue }
        svg.path(points.map { (x($0.commit), y($0.ns)) }, series: color(name, names))
        svg.text(name, x(last.commit) + 6, y(last.ns) + 4, class: "l")
      }
    }
    return svg.text
  }
}
