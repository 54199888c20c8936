import Foundation

/// A picture put together by hand: shapes with classes, and one style sheet that suits light and dark pages.
struct SVG {
  let width: Double
  let height: Double
  private var body = ""

  init(width: Double, height: Double) {
    self.width = width
    self.height = height
  }

  mutating func text(
    _ text: String, _ x: Double, _ y: Double, class name: String = "t", anchor: String = "start"
  ) {
    body +=
      "<text class=\"\(name)\" x=\"\(f(x))\" y=\"\(f(y))\" text-anchor=\"\(anchor)\">\(Self.escape(text))</text>\n"
  }
  mutating func bar(_ x: Double, _ y: Double, _ width: Double, _ height: Double, series: Int, title: String) {
    body +=
      "<rect class=\"f\(series)\" x=\"\(f(x))\" y=\"\(f(y))\" width=\"\(f(max(width, 1)))\" height=\"\(f(height))\" rx=\"1.5\">"
      + "<title>\(Self.escape(title))</title></rect>\n"
  }
  mutating func line(_ x1: Double, _ y1: Double, _ x2: Double, _ y2: Double) {
    body += "<line class=\"g\" x1=\"\(f(x1))\" y1=\"\(f(y1))\" x2=\"\(f(x2))\" y2=\"\(f(y2))\"/>\n"
  }
  mutating func path(_ points: [(Double, Double)], series: Int) {
    let list = points.map { "\(f($0.0)),\(f($0.1))" }.joined(separator: " ")
    body += "<polyline class=\"s\(series)\" points=\"\(list)\"/>\n"
    for p in points { body += "<circle class=\"f\(series)\" cx=\"\(f(p.0))\" cy=\"\(f(p.1))\" r=\"3.2\"/>\n" }
  }

  var text: String {
    """
    <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 \(f(width)) \(f(height))" width="\(f(width))" height="\(f(height))" role="img">
    <style>
    \(Self.style)
    </style>
    <rect class="bg" width="100%" height="100%"/>
    \(body)</svg>

    """
  }

  /// Ours is the first series. The others differ in lightness too, for eyes that do not tell the hues apart.
  private static let light = [
    "#c2410c", "#1d4ed8", "#0f766e", "#7e22ce", "#a16207", "#64748b", "#be185d", "#15803d", "#0369a1",
    "#854d0e",
    "#4d7c0f", "#9f1239", "#334155", "#6d28d9",
  ]
  private static let dark = [
    "#fb923c", "#93c5fd", "#5eead4", "#d8b4fe", "#fde047", "#94a3b8", "#f9a8d4", "#86efac", "#7dd3fc",
    "#fcd34d",
    "#bef264", "#fda4af", "#cbd5e1", "#c4b5fd",
  ]
  static var seriesCount: Int { light.count }

  private static var style: String {
    func rules(_ colors: [String], _ text: String, _ faint: String, _ grid: String, _ ground: String)
      -> String
    {
      var css = ".bg{fill:\(ground)}text{fill:\(text)}.l{fill:\(faint)}.g{stroke:\(grid)}"
      for (i, color) in colors.enumerated() { css += ".f\(i){fill:\(color)}.s\(i){stroke:\(color)}" }
      return css
    }
    return
      "text{font:12px system-ui,sans-serif}.h{font-size:15px;font-weight:600}.w{font-weight:600}.l{font-size:11px}"
      + "polyline{fill:none;stroke-width:2}line{stroke-width:1}\n"
      + rules(light, "#1f2937", "#4b5563", "#d1d5db", "#ffffff") + "\n@media (prefers-color-scheme: dark){"
      + rules(dark, "#e5e7eb", "#9ca3af", "#374151", "#0d1117") + "}"
  }

  private func f(_ x: Double) -> String {
    x == x.rounded() ? String(Int(x)) : String(format: "%.1f", x)
  }
  private static func escape(_ text: String) -> String {
    text.replacingOccurrences(of: "&", with: "&amp;").replacingOccurrences(of: "<", with: "&lt;")
  }

  /// Nanoseconds as people say them.
  static func time(_ ns: Double) -> String {
    switch ns {
    case ..<10: String(format: "%.1f ns", ns)
    case ..<10_000: String(format: "%.0f ns", ns)
    case ..<1e6: String(format: ns < 1e5 ? "%.1f µs" : "%.0f µs", ns / 1e3)
    case ..<1e9: String(format: ns < 1e8 ? "%.1f ms" : "%.0f ms", ns / 1e6)
    default: String(format: "%.1f s", ns / 1e9)
    }
  }
}
