import Glibc

/// Progress on standard output, and the keeping of rounds that failed.
struct Reporter {
  private let arguments: Arguments
  init(_ arguments: Arguments) { self.arguments = arguments }

  func progress(_ summary: Summary, of total: Int) {
    guard !arguments.quiet, summary.rounds % max(1, total / 10) == 0, summary.rounds < total else { return }
    print(
      "  \(summary.rounds) of \(total) rounds, \(summary.seconds) s, \(summary.violations.count) violations")
    fflush(nil)
  }

  func violation(_ text: String) {
    print("\(arguments.control ? "planted, and found" : "VIOLATION"): \(text)")
    fflush(nil)
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
