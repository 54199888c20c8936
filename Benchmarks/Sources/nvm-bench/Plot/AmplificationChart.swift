import Foundation

/// Bytes written for each byte of user data, over the size of the store; a panel for each number of changes per commit.
enum AmplificationChart {
  static func isAmplification(_ row: Row) -> Bool { row.suite == AmplificationRun.suite }

  static func make(_ rows: [Row]) -> Charts.Chart? {
    let rows = rows.filter { isAmplification($0) && value($0) > 0 }
    let commits = Set(rows.compactMap(\.batch)).sorted()
    let sizes = Set(rows.map(\.n)).sorted()
    guard let first = sizes.first, let last = sizes.last, first < last else { return nil }
    let title = "amplification: bytes written per byte of user data"
    let panelWidth = 300.0
    var svg = SVG(width: 70 + Double(commits.count) * (panelWidth + 130), height: 380)
    svg.text(title, 12, 24, class: "h")
    svg.text(
      "lower is better; both scales are logarithmic; random updates, 16 bytes each", 12, 42, class: "l")
    let low = floor(log10(rows.map(value).min()!))
    let high = max(ceil(log10(rows.map(value).max()!)), low + 1)
    func y(_ v: Double) -> Double { 330 - 240 * (log10(v) - low) / (high - low) }
    var names = [ours]
    for row in rows where !names.contains(row.contestant) { names.append(row.contestant) }
    for (panel, commit) in commits.enumerated() {
      let left = 70 + Double(panel) * (panelWidth + 130)
      func x(_ n: Int) -> Double {
        left + panelWidth * log10(Double(n) / Double(first)) / log10(Double(last) / Double(first))
      }
      svg.text("\(commit) changes per commit", left, 72, class: "w")
      for tick in stride(from: low, through: high, by: 1) {
        let v = pow(10, tick)
        svg.line(left, y(v), left + panelWidth, y(v))
        svg.text(v < 1 ? "\(v)" : "\(Int(v))", left - 6, y(v) + 4, class: "l", anchor: "end")
      }
      for n in sizes { svg.text("\(n / 1000)k", x(n), 348, class: "l", anchor: "middle") }
      svg.text("entries", left + panelWidth / 2, 366, class: "l", anchor: "middle")
      for (series, name) in names.enumerated() {
        let points = rows.filter { $0.contestant == name && $0.batch == commit }.sorted { $0.n < $1.n }
        guard let end = points.last else { continue }
        svg.path(points.map { (x($0.n), y(value($0))) }, series: series % SVG.seriesCount)
        svg.text(name, x(end.n) + 6, y(value(end)) + 4, class: "l")
      }
    }
    return Charts.Chart(file: "amplification.svg", title: title, svg: svg.text)
  }

  /// Of a device of its own where there was one: the process's own count takes whole folios for what was written.
  private static func value(_ row: Row) -> Double {
    row.extra?[AmplificationRun.deviceFigure] ?? row.extra?[AmplificationRun.figure] ?? 0
  }
}
