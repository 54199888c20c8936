import Foundation

/// Rows as text, a table for each workload, our line first and the ratio to each peer at the end of its line.
enum Table {
  static func print(_ rows: [Row]) {
    var last = ""
    for row in rows {
      let head = "\(row.suite) · \(row.workload) · \(row.media) · n \(row.n) · threads \(row.threads)"
      if head != last {
        Swift.print("\n\(head)")
        Swift.print(
          "  contestant                       ns/op  spread   fences    lines    bytes      p50      p99    p99.9  / ours"
        )
        last = head
      }
      var name = row.contestant
      if let batch = row.batch, batch > 1 { name += " (\(batch)/commit)" }
      var line = "  " + name.padding(toLength: 28, withPad: " ", startingAt: 0)
      line += number(row.nsPerOp, 10) + percent(row.spread, 8)
      for value in [row.fencesPerOp, row.linesPerOp] { line += decimal(value, 9) }
      for value in [row.bytesPerOp, row.p50, row.p99, row.p999] { line += number(value, 9) }
      line += row.contestant == ours ? "       –" : decimal(row.ratioToOurs, 8)
      if let extra = row.extra {
        line +=
          "  "
          + extra.sorted { $0.key < $1.key }
          .map { "\($0.key) \(decimal($0.value, 0))" }.joined(separator: ", ")
      }
      Swift.print(line)
    }
  }

  static func number(_ value: Double?, _ width: Int) -> String {
    guard let value else { return pad("–", width) }
    return pad(value < 100 ? String(format: "%.1f", value) : String(format: "%.0f", value), width)
  }
  static func decimal(_ value: Double?, _ width: Int) -> String {
    pad(value.map { String(format: "%.2f", $0) } ?? "–", width)
  }
  private static func percent(_ value: Double?, _ width: Int) -> String {
    pad(value.map { String(format: "%.0f %%", $0 * 100) } ?? "–", width)
  }
  private static func pad(_ text: String, _ width: Int) -> String {
    String(repeating: " ", count: max(0, width - text.count)) + text
  }
}
