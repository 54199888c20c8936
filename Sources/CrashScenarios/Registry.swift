package import NVMTesting

/// A scenario of any structure, ready to be explored.
package struct AnyScenario: Sendable {
  package var name: String
  /// Whether another seed gives another run.
  package var isSeeded: Bool
  /// Whether the mutation gate of the test run uses it (all are used by `nvm-explore --mutants`).
  package var isGated = false
  package var explore: @Sendable (CrashOptions) -> CrashReport
  package var mutate:
    @Sendable (CrashOptions, _ everyCall: Bool, _ known: Set<CrashMutation>) -> MutationReport

  package init<Structure, State>(
    _ scenario: CrashScenario<Structure, State>, isSeeded: Bool = false, isGated: Bool = false
  ) {
    self.isGated = isGated
    name = scenario.name
    self.isSeeded = isSeeded || scenario.threads.count > 1 && scenario.interruptions == nil
    explore = { CrashExplorer($0).explore(scenario) }
    mutate = { CrashExplorer($0).mutate(scenario, everyCall: $1, known: $2) }
  }
}

/// All scenarios of the package. A file for each part adds its own; those that draw their operations at
/// random draw them from `seed`.
package enum Registry {
  package static func all(seed: UInt64) -> [AnyScenario] {
    RegionScenarios.all(seed: seed) + HeapScenarios.all(seed: seed) + TreeScenarios.all(seed: seed)
      + StoreScenarios.all(seed: seed) + ExampleScenarios.all(seed: seed)
  }
}
