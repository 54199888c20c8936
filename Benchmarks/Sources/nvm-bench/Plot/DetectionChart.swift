import Foundation

/// Stray writes: the share that protection stops, and how long one that comes again and again goes unstopped, over the
/// interval of the batches.
enum DetectionChart {
  static let interval = "interval ms"
  static let share = "share stopped"

  static func isDetection(_ row: Row) -> Bool { row.extra?[interval] != nil }

  static func make(_ rows: [Row]) -> Charts.Chart? {
    let rows = rows.filter(isDetection).sorted { $0.extra![interval]! < $1.extra![interval]! }
    guard rows.count > 1 else { return nil }
    let title = "protect: stray writes by the interval of the batches"
    var svg = SVG(width: 900, height: 360)
    svg.text(title, 12, 24, class: "h")
    svg.text(rows[0].workload, 12, 42, class: "l")
    let intervals = rows.map { $0.extra![interval]! }
    let low = log10(intervals.first!)
    let high = log10(intervals.last!)
    func panel(
      _ left: Double, _ name: String, _ ticks: [(Double, String)], _ y: (Double) -> Double,
      _ value: (Row) -> Double
    ) {
      let width = 340.0
      func x(_ ms: Double) -> Double { left + width * (log10(ms) - low) / max(0.1, high - low) }
      svg.text(name, left, 72, class: "w")
      for (tick, text) in ticks {
        svg.line(left, y(tick), left + width, y(tick))
        svg.text(text, left - 6, y(tick) + 4, class: "l", anchor: "end")
      }
      for ms in intervals { svg.text(SVG.time(ms * 1e6), x(ms), 318, class: "l", anchor: "middle") }
      svg.text("interval", left + width / 2, 338, class: "l", anchor: "middle")
      svg.path(rows.map { (x($0.extra![interval]!), y(value($0))) }, series: 0)
    }
    panel(
      70, "share of single stray writes that are stopped",
      stride(from: 0.0, through: 1, by: 0.25).map { ($0, String(format: "%.0f %%", $0 * 100)) },
      { 300 - 210 * $0 }, { $0.extra![share]! })
    let delays = rows.map(\.nsPerOp)
    let floor = floor(log10(delays.min()!))
    let ceiling = max(ceil(log10(delays.max()!)), floor + 1)
    panel(
      520, "delay until a forgotten pointer is stopped (median)",
      stride(from: floor, through: ceiling, by: 1).map { (pow(10, $0), SVG.time(pow(10, $0))) },
      { 300 - 210 * (log10($0) - floor) / (ceiling - floor) }, { $0.nsPerOp })
    return Charts.Chart(file: "protect-detection.svg", title: title, svg: svg.text)
  }
}
