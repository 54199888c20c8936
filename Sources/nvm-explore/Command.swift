import CrashScenarios
import Glibc
import NVMTesting

@main
struct Command {
  private let arguments: Arguments
  private let models: [CrashModel]
  private var results = Results()

  static func main() {
    do throws(Arguments.Problem) {
      let arguments = try Arguments(Array(CommandLine.arguments.dropFirst()))
      if arguments.help {
        print(Arguments.usage)
        return
      }
      var command = Command(arguments)
      if command.selected(seed: arguments.seed).isEmpty {
        throw Arguments.Problem(text: "No scenario has such a name. See --list.")
      }
      if arguments.lists {
        for scenario in command.selected(seed: arguments.seed) { print(scenario.name) }
        return
      }
      exit(try command.run())
    } catch {
      complain(error.text)
      exit(2)
    }
  }

  private static func complain(_ text: String) {
    _ = "nvm-explore: \(text)\n".withCString { write(STDERR_FILENO, $0, strlen($0)) }
  }

  private init(_ arguments: Arguments) {
    self.arguments = arguments
    models = arguments.models.isEmpty ? CrashModel.allCases : arguments.models
  }

  private func selected(seed: UInt64) -> [AnyScenario] {
    let all = Registry.all(seed: seed)
    guard !arguments.scenarios.isEmpty else { return all }
    return all.filter { scenario in arguments.scenarios.contains { scenario.name.contains($0) } }
  }

  private mutating func run() throws(Arguments.Problem) -> Int32 {
    let begin = ContinuousClock.now
    exploreRounds()
    if arguments.mutants { mutate() }
    print(
      "\(results.images) images checked in \(Self.seconds(since: begin)) s, \(results.violations) violations")
    if let path = arguments.json, !results.writeJSON(to: path) {
      throw Arguments.Problem(text: "\(path) cannot be written.")
    }
    let unexcused = results.gate?.survivors.count { $0.excuse == nil } ?? 0
    return results.violations > 0 || unexcused > 0 ? 1 : 0
  }

  /// The first round is everything; further ones only what another seed changes.
  private mutating func exploreRounds() {
    var round: UInt64 = 0
    repeat {
      let seed = arguments.seed &+ round
      let scenarios = selected(seed: seed).filter { round == 0 || $0.isSeeded }
      if scenarios.isEmpty { return }
      let before = results.images
      var left = scenarios.count * models.count
      for scenario in scenarios {
        for model in models {
          let share = arguments.images.map { max(50, ($0 - results.images) / left) }
          left -= 1
          explore(scenario, model, seed: seed, share: share)
        }
      }
      round += 1
      if results.images == before { return }
    } while arguments.images.map { results.images < $0 } ?? false
  }

  private mutating func explore(_ scenario: AnyScenario, _ model: CrashModel, seed: UInt64, share: Int?) {
    var options = CrashOptions(model: model, seed: seed)
    options.maximumImages = share
    let begin = ContinuousClock.now
    let report = scenario.explore(options)
    results.add(report)
    print(
      Self.pad(report.scenario, 28), Self.pad(model.rawValue, 10), Self.pad("seed \(seed)", 9),
      Self.pad("\(report.images)", 8, right: true), "images,",
      Self.pad(Results.short(report.skipped), 8, right: true), "skipped,",
      Self.pad("\(report.points)+\(report.recoveryPoints)", 11, right: true), "points,",
      report.violations.count, "violations,", "\(Self.seconds(since: begin)) s")
    for violation in report.violations { print("\n\(violation)\n") }
    fflush(nil)
    if arguments.lints {
      for lint in report.lints { print("    lint: \(lint)") }
      for cost in report.costs { print("    cost: \(cost)") }
    }
  }

  private mutating func mutate() {
    var gate = MutationGate()
    var options = CrashOptions(model: arguments.models.first ?? .cacheLine, seed: arguments.seed)
    options.maximumImages = arguments.images
    for scenario in selected(seed: arguments.seed) {
      let report = scenario.mutate(options, arguments.everyCall, gate.killed)
      gate.add(report)
      for violation in report.violations { print("\n\(violation)\n") }
      results.addViolations(report.violations.count, of: report.scenario)
      print(
        Self.pad(report.scenario, 28),
        "mutants: \(report.killed.count) of \(report.total) not killed before, \(report.images) images")
      fflush(nil)
    }
    let survivors = gate.survivors
    for (mutation, index, excuse) in survivors {
      print(
        excuse == nil ? "SURVIVES" : "excused ", "\(mutation)", excuse.map { "— \($0.reason)" } ?? "#\(index)"
      )
    }
    for call in gate.survivingCalls { print("survives alone: \(call)") }
    print(
      "mutants: \(gate.killed.count) of \(gate.met.count) killed, \(survivors.count { $0.excuse != nil }) excused, "
        + "\(gate.images) images"
        + (arguments.everyCall
          ? "; single calls: \(gate.killedCalls) killed, \(gate.survivingCalls.count) not" : ""))
    results.gate = gate
  }

  private static func seconds(since begin: ContinuousClock.Instant) -> Double {
    (((ContinuousClock.now - begin) / .seconds(1)) * 10).rounded() / 10
  }

  private static func pad(_ text: String, _ width: Int, right: Bool = false) -> String {
    let space = String(repeating: " ", count: max(0, width - text.count))
    return right ? space + text : text + space
  }
}
