import Glibc

/// A line on the terminal that tells how far something is; nothing where standard error is no terminal.
final class ProgressBar {
  private let title: String
  private let isShown: Bool
  private let start = ContinuousClock.now
  private var last = ContinuousClock.now
  private var isDrawn = false

  init(_ title: String, isShown: Bool = Terminal.errorIsTerminal) {
    self.title = title
    self.isShown = isShown
  }

  /// - Parameters:
  ///   - share: 0…1, or nil where the end is not known.
  ///   - count: entries done.
  func update(_ share: Double?, count: Int? = nil) {
    guard isShown, ContinuousClock.now - last > .milliseconds(100) else { return }
    last = .now
    isDrawn = true
    Terminal.writeError("\r" + Self.line(title, share, count, (last - start).seconds) + "\u{1B}[K")
  }

  func finish() {
    if isDrawn { Terminal.writeError("\r\u{1B}[K") }
    isDrawn = false
  }

  static func line(_ title: String, _ share: Double?, _ count: Int?, _ seconds: Double) -> String {
    var text = title
    if let share {
      let full = Int(24 * min(max(share, 0), 1))
      text += " [" + String(repeating: "#", count: full) + String(repeating: " ", count: 24 - full) + "]"
      text += " \(Int(100 * min(max(share, 0), 1))) %"
    }
    if let count {
      text += "  \(count.grouped) entries"
      if seconds > 0 { text += ", \(Int(Double(count) / seconds).grouped)/s" }
    }
    return text
  }
}

extension Duration {
  var seconds: Double { Double(components.seconds) + Double(components.attoseconds) / 1e18 }
}

extension Int {
  /// With a comma between groups of three digits.
  var grouped: String {
    let digits = String(magnitude)
    var text = ""
    for (i, digit) in digits.enumerated() {
      if i > 0, (digits.count - i).isMultiple(of: 3) { text += "," }
      text.append(digit)
    }
    return (self < 0 ? "-" : "") + text
  }
  /// Bytes as a person says it.
  var asSize: String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    var value = Double(self)
    var unit = 0
    while value >= 1024, unit + 1 < units.count {
      value /= 1024
      unit += 1
    }
    if unit == 0 { return "\(self) bytes" }
    let tenths = Int((value * 10).rounded())
    return "\(tenths / 10)\(tenths % 10 == 0 ? "" : ".\(tenths % 10)") \(units[unit])"
  }
}
