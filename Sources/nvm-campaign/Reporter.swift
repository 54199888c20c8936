import Glibc

/// Progress on standard output, and the keeping of rounds that failed.
struct Reporter {
  private let arguments: Arguments
  private static let found = "rounds that found it"
  init(_ arguments: Arguments) { self.arguments = arguments }

  /// Says how a round went; returns whether to stop. A control goes on unless told: it counts how often it finds the
  /// error.
  func note(_ finding: String?, _ summary: inout Summary, of total: Int) -> Bool {
    if let finding {
      if arguments.control { summary.count(Self.found) }
      if !arguments.control || summary.violations.isEmpty {
        summary.violations.append(finding)
        print("\(arguments.control ? "planted, and found" : "VIOLATION"): \(finding)")
      }
    }
    if !arguments.quiet, summary.rounds % max(1, total / 10) == 0, summary.rounds < total {
      print(
        "  \(summary.rounds) of \(total) rounds, \(summary.seconds) s, \(summary.violations.count) violations"
      )
    }
    fflush(nil)
    let found = arguments.control ? summary.value(Self.found) : summary.violations.count
    return found >= arguments.maximumViolations ?? (arguments.control ? .max : 5)
  }

  /// Keeps the round's image; says where, and how to look again.
  func keep(_ life: Life, _ expectation: Expectation, image: String, name: String, _ found: String) -> String
  {
    if arguments.control, arguments.keep == nil { return "(not kept: the control)" }
    let directory = "\(arguments.keep ?? "nvm-campaign-failures")/\(name)"
    KeptRound.save(life, expectation, image: image, in: directory, found: found)
    return "kept in \(directory); look again with: nvm-campaign check \(directory)"
  }
}
