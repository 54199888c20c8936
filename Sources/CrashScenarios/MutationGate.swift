package import NVMTesting

/// The mutation gate: each flush and each fence of the package is left out in turn, and each flush is moved
/// before the store that it follows. A mutant that no scenario notices must be excused here, with the
/// argument why leaving it out is harmless.
package struct MutationGate {
  /// A mutant by its line of code: the n-th such line of a function, counted from 0, so that the list does not
  /// change with every edit above it.
  package struct Excuse: Sendable {
    package var kind: CrashMutation.Kind
    package var file: String
    package var function: String
    package var index: Int
    package var reason: String
  }
  package private(set) var killed: Set<CrashMutation> = []
  package private(set) var met: Set<CrashMutation> = []
  /// Single calls, by scenario.
  package private(set) var killedCalls = 0
  package private(set) var survivingCalls: [String] = []
  package private(set) var images = 0

  package init() {}

  package mutating func add(_ report: MutationReport) {
    images += report.images
    for mutation in report.killed + report.survivors {
      if case .site(let site) = mutation.target, Self.isOurs(site) { met.insert(mutation) }
    }
    for mutation in report.killed {
      guard case .site(let site) = mutation.target else {
        killedCalls += 1
        continue
      }
      if Self.isOurs(site) { killed.insert(mutation) }
    }
    for mutation in report.survivors {
      if case .ordinal = mutation.target { survivingCalls.append("\(report.scenario): \(mutation)") }
    }
  }

  /// What a scenario does to soil a region beforehand is no code of ours.
  private static func isOurs(_ site: CallSite) -> Bool {
    !site.file.hasSuffix("Scenario.swift") && !site.file.hasSuffix("Scenarios.swift")
  }

  /// Mutants that nobody noticed, with their excuses, and the index that an excuse names them by.
  package var survivors: [(mutation: CrashMutation, index: Int, excuse: Excuse?)] {
    var result: [(mutation: CrashMutation, index: Int, excuse: Excuse?)] = []
    for mutation in met.subtracting(killed) {
      guard case .site(let site) = mutation.target else { continue }
      let index = Set(
        met.compactMap { other -> Int? in
          guard other.kind == mutation.kind, case .site(let at) = other.target, at.file == site.file,
            at.function == site.function, at.line < site.line
          else { return nil }
          return at.line
        }
      ).count
      let excuse = Self.excuses.first {
        $0.kind == mutation.kind && $0.file == site.file && $0.function == site.function && $0.index == index
      }
      result.append((mutation, index, excuse))
    }
    return result.sorted { $0.mutation.description < $1.mutation.description }
  }
}
