import CrashScenarios
import Glibc
import NVMTesting

/// Sums over rounds, one row for each scenario and model.
struct Results {
  struct Row {
    var name: String
    var model: CrashModel
    var images = 0
    var skipped = 0
    var points = 0
    var violations = 0
  }
  private(set) var rows: [Row] = []
  var gate: MutationGate?

  var images: Int { rows.reduce(0) { $0 + $1.images } }
  var violations: Int { rows.reduce(0) { $0 + $1.violations } }

  mutating func add(_ report: CrashReport) {
    let index =
      rows.firstIndex { $0.name == report.scenario && $0.model == report.model }
      ?? {
        rows.append(Row(name: report.scenario, model: report.model))
        return rows.count - 1
      }()
    rows[index].images += report.images
    rows[index].skipped = min(1 << 53, rows[index].skipped + report.skipped)
    rows[index].points += report.points + report.recoveryPoints
    rows[index].violations += report.violations.count
  }

  /// Violations that the unmutated runs of the mutation gate met.
  mutating func addViolations(_ count: Int, of scenario: String) {
    if let index = rows.firstIndex(where: { $0.name == scenario }) { rows[index].violations += count }
  }

  /// 1,234 as such, large ones rounded: what was skipped is often beyond counting.
  static func short(_ n: Int) -> String {
    if n >= 1 << 53 { return ">9e15" }
    if n < 10_000_000 { return "\(n)" }
    var value = Double(n)
    var exponent = 0
    while value >= 10 {
      value /= 10
      exponent += 1
    }
    return "\(Int(value))e\(exponent)"
  }

  func writeJSON(to path: String) -> Bool {
    var text = "{\"scenarios\":["
    text += rows.map { row in
      "{\"name\":\"\(row.name)\",\"model\":\"\(row.model.rawValue)\",\"images\":\(row.images),"
        + "\"skipped\":\(row.skipped),\"violations\":\(row.violations)}"
    }.joined(separator: ",\n")
    text += "]"
    if let gate {
      let survivors = gate.survivors
      let excused = survivors.count { $0.excuse != nil }
      text +=
        ",\n\"mutants\":{\"total\":\(gate.met.count),\"killed\":\(gate.killed.count),\"excused\":\(excused)}"
    }
    text += "}\n"
    guard let file = fopen(path, "w") else { return false }
    let written = fputs(text, file) >= 0
    return fclose(file) == 0 && written
  }
}
