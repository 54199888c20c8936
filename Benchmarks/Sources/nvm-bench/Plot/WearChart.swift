import Foundation

/// How unevenly allocators wear: the hottest line over the mean of the lines in use. For lines that were flushed, tables
/// and logs included, where the allocator says when it flushes; for the lines that blocks start on, of all.
enum WearChart {
  private static let kinds = [
    ("flushes, max / mean", "flushes of a line, the whole file"),
    ("blocks, max / mean", "blocks that start on a line"),
  ]

  static func make(_ rows: [Row], title: String) -> String {
    var workloads: [String] = []
    for row in rows where !workloads.contains(row.workload) { workloads.append(row.workload) }
    var names: [String] = [ours]
    for row in rows where !names.contains(row.contestant) { names.append(row.contestant) }
    var bars: [(workload: String, kind: Int, row: Row, value: Double)] = []
    for workload in workloads {
      for (k, kind) in kinds.enumerated() {
        for row in rows where row.workload == workload {
          if let value = row.extra?[kind.0] { bars.append((workload, k, row, value)) }
        }
      }
    }
    let left = 200.0
    let width = 900.0
    let span = width - left - 110
    let high = pow(10, ceil(log10(max(10, bars.map(\.value).max() ?? 10))))
    let height = 70 + Double(bars.count) * 13 + Double(workloads.count) * (30 + 2 * 18) + 20
    var svg = SVG(width: width, height: height)
    func x(_ v: Double) -> Double { left + span * log10(max(v, 1)) / log10(high) }
    svg.text(title, 12, 24, class: "h")
    svg.text("shorter is better, 1 is even; the scale is logarithmic", 12, 42, class: "l")
    var tick = 1.0
    while tick <= high * 1.01 {
      svg.line(x(tick), 62, x(tick), height - 12)
      svg.text(String(format: "%.0f", tick), x(tick), 58, class: "l", anchor: "middle")
      tick *= 10
    }
    var y = 70.0
    for workload in workloads {
      let n = rows.first { $0.workload == workload }?.n ?? 0
      svg.text("\(workload), \(n) times", 12, y + 14, class: "w")
      y += 20
      for (k, kind) in kinds.enumerated() {
        let these = bars.filter { $0.workload == workload && $0.kind == k }
        if these.isEmpty { continue }
        svg.text(kind.1, 24, y + 12, class: "l")
        y += 18
        for bar in these {
          let text = String(format: bar.value < 100 ? "%.2f" : "%.0f", bar.value)
          svg.text(bar.row.contestant, left - 8, y + 10, class: "l", anchor: "end")
          svg.bar(
            left, y + 1, x(bar.value) - left, 10.5,
            series: (names.firstIndex(of: bar.row.contestant) ?? 0) % SVG.seriesCount,
            title: "\(bar.row.contestant): \(text)")
          svg.text(text, x(bar.value) + 6, y + 10, class: "l")
          y += 13
        }
      }
      y += 10
    }
    return svg.text
  }
}
