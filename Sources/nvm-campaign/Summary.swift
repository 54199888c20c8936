/// What a campaign has done, for people and for programs.
struct Summary {
  var campaign: String
  var seed: UInt64
  /// The control is expected to fail.
  var isControl = false
  var rounds = 0
  /// Named counts, in the order of printing.
  var counts: [(name: String, value: Int)] = []
  var violations: [String] = []
  var skipped: [String] = []
  var seconds = 0.0

  mutating func count(_ name: String, _ n: Int = 1) {
    if let i = counts.firstIndex(where: { $0.name == name }) {
      counts[i].value += n
    } else {
      counts.append((name, n))
    }
  }
  func value(_ name: String) -> Int { counts.first { $0.name == name }?.value ?? 0 }

  /// 0: as it should be. A control must find something.
  var status: Int32 { violations.isEmpty != isControl || rounds == 0 ? 0 : 1 }

  var text: String {
    var text = "\(campaign): \(rounds) rounds in \(seconds) s, seed \(seed)"
    for (name, value) in counts { text += ", \(value) \(name)" }
    text += "; \(violations.count) violations"
    if isControl, rounds > 0 {
      text += violations.isEmpty ? ": the control found NOTHING" : ": the control finds what was planted"
    }
    return text
  }

  var json: String {
    func quote(_ text: String) -> String {
      var result = "\""
      for c in text.unicodeScalars {
        switch c {
        case "\"": result += "\\\""
        case "\\": result += "\\\\"
        case _ where c.value < 32: result += " "
        default: result.unicodeScalars.append(c)
        }
      }
      return result + "\""
    }
    func list(_ texts: [String]) -> String { "[" + texts.map(quote).joined(separator: ",") + "]" }
    let numbers = counts.map { "\(quote($0.name)):\($0.value)" }.joined(separator: ",")
    return "{\"campaign\":\(quote(campaign)),\"seed\":\(seed),\"control\":\(isControl),\"rounds\":\(rounds),"
      + "\"seconds\":\(seconds),\"counts\":{\(numbers)},\"violations\":\(list(violations)),"
      + "\"skipped\":\(list(skipped))}\n"
  }
}
