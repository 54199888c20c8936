import NVMRegion
import NVMTesting
import NVMalloc

/// What a split leaves behind an object is known by its own head or, should a crash keep that from the medium, by what
/// the object's entry says.
enum HeapRestScenarios {
  static var all: [AnyScenario] { [AnyScenario(reusedHead()), AnyScenario(lostHead())] }

  /// A split where a head has been before: of a free extent that was joined to the one before it. Behind the split lives
  /// an object, which a head left from then would cover.
  private static func reusedHead() -> HeapScenarios.Scenario {
    var scenario = HeapScenarios.scenario(
      "heap-rest-reused",
      [
        HeapScenarios.hold(1, 9000), HeapScenarios.hold(2, 9000), HeapScenarios.release(1),
        HeapScenarios.release(2), HeapScenarios.join, HeapScenarios.hold(3, 12000),
        HeapScenarios.hold(4, 9000),
        HeapScenarios.release(3), HeapScenarios.join, HeapScenarios.hold(5, 9000), HeapScenarios.release(5),
        HeapScenarios.release(4), HeapScenarios.join, HeapScenarios.hold(6, 20000),
      ])
    scenario.regionSize = 96 << 10
    return scenario
  }

  /// The head of the rest is lost, as by a crash; opening writes it anew, and what it is taken for next relies on that.
  private static func lostHead() -> HeapRepairScenario.Scenario {
    typealias Scenario = HeapRepairScenario.Scenario
    func hold(_ owner: UInt32, _ size: Int) -> Scenario.Operation {
      Scenario.Operation("allocate") {
        try $0.hold(owner, size)
      } model: {
        $0.owners.insert(owner)
      }
    }
    let lose = Scenario.Operation("lose a head") {
      try $0.loseRest()
    } model: { _ in
    }
    var scenario = Scenario(
      "heap-rest-lost",
      create: { region in
        try PersistentHeap.format(region, options: HeapHarness.options()).close()
        return try HeapRepairScenario.Place(region)
      }, open: { try HeapRepairScenario.Place($0) },
      observe: { place in
        HeapRepairScenario.State(owners: try place.owners(), isDamaged: try !place.heap.verify().isClean)
      }, operations: [hold(1, 9000), lose, hold(2, 9000), lose, hold(3, 40), hold(4, 10000)])
    scenario.regionSize = 96 << 10
    scenario.continuation = [hold(5, 40), hold(6, 9000)]
    scenario.close = { $0.heap.close() }
    return scenario
  }
}

extension HeapRepairScenario.Place {
  /// Zeroes the heads of free extents that objects name, and opens the heap again.
  func loseRest() throws {
    heap.close()
    let table = HeapRepairScenario.tableOffset(region)
    let unit = HeapGeometry.tiny.unitShift
    for u in 0..<region.size >> unit {
      let entry = table + u * 64
      // An object's, with a word 4.
      guard region.load(entry) & 15 == 3, region.load(entry + 32) != 0 else { continue }
      let rest = table + (u + Int(region.load(entry) >> 4 & 0xFFF_FFFF)) * 64
      region.store(0, at: rest)
      try region.persist(rest, count: 8)
    }
    heap = try PersistentHeap.open(region, options: HeapHarness.options())
  }
}
