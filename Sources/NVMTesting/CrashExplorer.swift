/// Finds the crashes that harm a structure on a region.
///
/// The scenario runs once on a simulated medium that records every primitive. Then, at each crash point, the
/// states that the fault model allows are enumerated or sampled; each is mapped at another address, opened
/// by the scenario's own `open`, compared with the model, recovered once more, worked on, closed and
/// reopened. The recovery is itself recorded and crashed.
///
/// What it cannot see: stores and flushes that the run did not make (choose operations that reach all
/// branches), interleavings of threads that did not happen, and mistakes of the processor or of the fault
/// model. One exploration at a time; the calling thread does the work.
public struct CrashExplorer: Sendable {
  public var options: CrashOptions

  public init(_ options: CrashOptions = CrashOptions()) { self.options = options }

  /// Explores one scenario. Never throws: what goes wrong is in the report.
  public func explore<Structure, State: Equatable & Sendable>(_ scenario: CrashScenario<Structure, State>)
    -> CrashReport
  {
    watch(scenario.name, nil)
    defer { Watchdog.shared.stop() }
    let run = ScenarioRun.record(scenario, model: options.model, seed: options.seed)
    let exploration = Exploration(scenario, options)
    exploration.explore(run)
    var report = exploration.report
    let lints = LintPass(run.trace)
    report.lints = lints.lints
    report.costs = lints.costs
    // Budgets count lines and fences of the medium's user, and those of a journal are its own.
    for cost in lints.costs where options.model != .journaledFile {
      guard let budget = scenario.budgets[cost.operation],
        cost.mostFences > budget.fences || cost.mostFlushedLines > budget.flushedLines
      else { continue }
      report.violations.append(
        exploration.violation(
          .overBudget, "\(cost); allowed are \(budget.flushedLines) lines and \(budget.fences) fences"))
    }
    return report
  }

  /// Repeats the exploration with each flush and each fence left out in turn, and with each flush moved
  /// before the store that it follows, until a violation shows.
  ///
  /// Fewer images are checked of each mutant than `explore` would; a survivor may fall to more.
  ///
  /// - Parameters:
  ///   - everyCall: also one mutant for each single call of the run, not only for each line of code.
  ///   - known: mutants that need not be tried, because another scenario noticed them.
  public func mutate<Structure, State: Equatable & Sendable>(
    _ scenario: CrashScenario<Structure, State>, everyCall: Bool = false,
    kinds: [CrashMutation.Kind] = CrashMutation.Kind.allCases, known: Set<CrashMutation> = []
  ) -> MutationReport {
    watch(scenario.name, nil)
    defer { Watchdog.shared.stop() }
    let run = ScenarioRun.record(scenario, model: options.model, seed: options.seed)
    // A sync takes a page as it is then: that it comes before a store changes nothing.
    let kinds = options.model.isFile ? kinds.filter { $0 != .flushBeforeStore } : kinds
    var quick = options
    quick.exhaustiveLimit = min(options.exhaustiveLimit, 256)
    quick.randomImages = min(options.randomImages, 64)
    quick.imagesPerPoint = min(options.imagesPerPoint, 400)
    quick.recoveryDepth = min(options.recoveryDepth, 1)
    quick.maximumImages = min(options.maximumImages ?? .max, 3000)
    quick.maximumViolations = 1
    quick.shrinks = false
    // The unmutated run, for the call sites of its recoveries.
    let original = Exploration(scenario, quick)
    original.explore(run)
    var report = MutationReport(scenario: scenario.name)
    report.images = original.report.images
    report.violations = original.report.violations
    guard report.violations.isEmpty else { return report }
    // Naming the call sites takes long on a busy machine, and is no recovery.
    Watchdog.shared.stop()
    for mutation in Self.mutations(
      of: run.trace, flushes: original.recoveryFlushes, fences: original.recoveryFences, kinds, everyCall)
    where !known.contains(mutation) {
      watch(scenario.name, mutation)
      var recurs = false
      if case .site(let site) = mutation.target {
        let numbers = mutation.kind == .dropFence ? original.recoveryFences : original.recoveryFlushes
        recurs = numbers.contains { CallSites.site($0) == site }
      }
      let exploration = Exploration(scenario, quick, mutation: mutation, mutatesRecoveries: recurs)
      exploration.explore(run)
      report.images += exploration.report.images
      if exploration.report.violations.isEmpty {
        report.survivors.append(mutation)
      } else {
        report.killed.append(mutation)
      }
    }
    return report
  }

  private static func mutations(
    of trace: Trace, flushes: Set<Int32>, fences: Set<Int32>, _ kinds: [CrashMutation.Kind],
    _ everyCall: Bool
  ) -> [CrashMutation] {
    var result: [CrashMutation] = []
    for kind in kinds {
      var numbers = kind == .dropFence ? fences : flushes
      var calls = 0
      for event in trace.events where kind == .dropFence ? event.isFence : event.kind == .flush {
        if everyCall { result.append(CrashMutation(kind, .ordinal(calls))) }
        calls += 1
        numbers.insert(event.site)
      }
      let sites = Set(numbers.map { CallSites.site($0) })
      for site in sites.sorted(by: { ($0.file, $0.line, $0.function) < ($1.file, $1.line, $1.function) }) {
        result.append(CrashMutation(kind, .site(site)))
      }
    }
    return result
  }

  private func watch(_ name: String, _ mutation: CrashMutation?) {
    let options = options
    Watchdog.shared.watch(limit: options.timeLimit) {
      "scenario \(name), \(options.model), seed \(options.seed)"
        + (mutation.map { ", \($0)" } ?? "")
    }
  }
}
