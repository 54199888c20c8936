import NVMTesting

/// What one thread has published in memory and not yet fenced, another one uses at once: at each order and fence
/// of the first one's operation the second carries out a whole one.
enum HeapInterruptions {
  typealias Scenario = HeapScenarios.Scenario
  typealias Operation = HeapScenarios.Operation

  static var all: [AnyScenario] {
    [
      AnyScenario(splits()), AnyScenario(slabs()), AnyScenario(growth()), AnyScenario(links()),
      AnyScenario(shares("heap-interrupted-share", [20, 100, 200, 500, 1000, 1500])),
      AnyScenario(shares("heap-interrupted-object", [9000, 12000, 16000, 20000, 9500, 24000])),
    ]
  }

  /// Both take a piece of one free extent.
  private static func splits() -> Scenario {
    scenario("heap-interrupted-split", size: 128 << 10) { moment in
      [
        (HeapScenarios.hold(1, 9000), HeapScenarios.hold(2, 10000), moment),
        (HeapScenarios.release(1), HeapScenarios.release(2), .max),
        (HeapScenarios.join, HeapScenarios.join, .max),
      ]
    }
  }

  /// Both want the first block of a class.
  private static func slabs() -> Scenario {
    scenario("heap-interrupted-slab", size: 128 << 10) { moment in
      let size = [20, 100, 200, 500, 1000, 1500][moment]
      let owner = UInt32(moment + 1)
      return [(HeapScenarios.hold(owner, size), HeapScenarios.hold(owner + 10, size), moment)]
    }
  }

  /// Both need more than the region holds.
  private static func growth() -> Scenario {
    scenario("heap-interrupted-growth", size: 64 << 10) { moment in
      let owner = UInt32(moment + 1)
      return [(HeapScenarios.hold(owner, 20000), HeapScenarios.hold(owner + 10, 9000), moment)]
    }
  }

  /// One links a block, the other unlinks it when it sees it: a replay of the first one's record must not undo
  /// what the second has done.
  private static func links() -> Scenario {
    scenario("heap-interrupted-link", size: 64 << 10) { moment in
      let take = Operation("take") {
        try $0.takeIfThere(0)
      } model: { state -> Bool in
        defer { state.cells[0] = nil }
        return state.cells[0] != nil
      }
      return [
        (HeapScenarios.put(0, 40, UInt64(moment + 1)), take, moment),
        (HeapScenarios.remove(0), HeapScenarios.put(1, 20 + moment, UInt64(moment + 100)), .max),
      ]
    }
  }

  /// One frees a block, the other takes it from the first one's share at once, or frees what the first allocated.
  private static func shares(_ name: String, _ sizes: [Int]) -> Scenario {
    scenario(name, size: 128 << 10, shares: 8) { moment in
      let size = sizes[moment]
      return [
        (HeapScenarios.hold(1, size), HeapScenarios.hold(2, size), .max),
        (HeapScenarios.release(1), HeapScenarios.hold(3, size), moment % 2),
        (HeapScenarios.hold(4, size), HeapScenarios.release(2), moment % 2),
        (HeapScenarios.release(3), HeapScenarios.release(4), .max),
      ]
    }
  }

  private static func scenario(
    _ name: String, size: Int, shares: Int = 1, _ pairs: (Int) -> [(Operation, Operation, Int)]
  ) -> Scenario {
    var scenario = HeapScenarios.scenario(name, [], shares: shares)
    let all = (0..<6).flatMap(pairs)
    scenario.threads = [all.map(\.0), all.map(\.1)]
    scenario.interruptions = all.map(\.2)
    scenario.regionSize = size
    scenario.maximumSize = 512 << 10
    return scenario
  }
}
