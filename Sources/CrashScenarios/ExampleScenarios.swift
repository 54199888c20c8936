/// Small structures as a user would write them on a raw region.
package enum ExampleScenarios {
  package static func all(seed: UInt64) -> [AnyScenario] {
    [AnyScenario(ExampleStack.scenario(), isGated: true)]
  }
}
