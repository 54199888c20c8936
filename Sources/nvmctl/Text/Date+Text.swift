import Foundation

/// As ISO 8601 in UTC, with milliseconds or as many digits as it takes to be exact: what is dumped is loaded as it was.
/// What a calendar does not reach, as `@` and the seconds since 2001-01-01 00:00 UTC.
extension Date: TextConvertible {
  init?(text: String) {
    if text.first == "@" {
      guard let seconds = Double(text.dropFirst()) else { return nil }
      self.init(timeIntervalSinceReferenceDate: seconds)
    } else if let dot = text.firstIndex(of: "."), text.last == "Z",
      let whole = try? Self.wholeSeconds.parse(text[..<dot] + "Z"),
      case let digits = text[text.index(after: dot)...].dropLast(),
      !digits.isEmpty, digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }),
      let rest = Double("0." + digits)
    {
      self.init(timeIntervalSinceReferenceDate: whole.timeIntervalSinceReferenceDate + rest)
    } else {
      let styles = [Self.wholeSeconds, Date.ISO8601FormatStyle(includingFractionalSeconds: true)]
      guard let date = styles.lazy.compactMap({ try? $0.parse(text) }).first else { return nil }
      self = date
    }
  }

  var text: String {
    let seconds = timeIntervalSinceReferenceDate
    if abs(seconds) < Self.calendar {
      let short = formatted(Date.ISO8601FormatStyle(includingFractionalSeconds: true))
      if isExactly(short) { return short }
      // What is left of a second, exactly; tiny ones are written with an exponent.
      let rest = "\(seconds - seconds.rounded(.down))"
      let whole = Date(timeIntervalSinceReferenceDate: seconds.rounded(.down))
      let long = whole.formatted(Self.wholeSeconds).dropLast() + rest.dropFirst() + "Z"
      if isExactly(String(long)) { return String(long) }
    }
    return "@\(seconds)"
  }
  static var isJSON: Bool { false }

  private func isExactly(_ text: String) -> Bool {
    Date(text: text)?.timeIntervalSinceReferenceDate.bitPattern == timeIntervalSinceReferenceDate.bitPattern
  }

  private static var wholeSeconds: Date.ISO8601FormatStyle { Date.ISO8601FormatStyle() }
  /// Some 1,900 years, in seconds.
  private static let calendar = 6e10
}
