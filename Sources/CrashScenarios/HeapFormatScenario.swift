import NVMRegion
import NVMTesting
import NVMalloc

/// Formatting as an operation of its own, on a region where something else stood: at its acknowledgement all of the
/// heap must be durable, and a crash before may leave no heap, but none that is damaged.
enum HeapFormatScenario {
  typealias Scenario = CrashScenario<Place, Set<UInt32>?>

  /// A region that may hold a heap.
  final class Place: @unchecked Sendable {
    let region: PersistentRegion
    var heap: PersistentHeap?

    init(_ region: PersistentRegion) { self.region = region }

    func format() throws {
      if heap == nil { heap = try PersistentHeap.format(region, options: HeapHarness.options()) }
    }
    func hold(_ owner: UInt32, _ byteCount: Int) throws {
      guard let heap, try owners()?.contains(owner) == false else { return }
      _ = try heap.allocate(byteCount: byteCount, owner: OwnerToken(rawValue: owner))
    }
    func owners() throws -> Set<UInt32>? {
      guard let heap else { return nil }
      var result: Set<UInt32> = []
      try heap.forEachBlock { result.insert($0.owner.rawValue) }
      return result
    }
  }

  /// Writes something where the heap's own area will be.
  static func soil(_ region: PersistentRegion) throws {
    region.fill(region.payloadStart, count: 16 << 10, with: 0xA5)
    try region.persist(region.payloadStart, count: 16 << 10)
  }

  /// Writes something where the entry of the rest will be that the first object of ``largeSize`` bytes leaves: what that
  /// object's entry says of the rest counts only where formatting has made this one zero.
  private static func soilRest(_ region: PersistentRegion) throws {
    try PersistentHeap.format(region, options: HeapHarness.options()).close()
    let table = HeapRepairScenario.tableOffset(region)
    var unit = 0
    // Behind the system's extent and the table the only free one begins.
    while region.load(table + unit * 64) & 15 != 1 {
      unit += Int(region.load(table + unit * 64) >> 4 & 0xFFF_FFFF)
    }
    let rest = unit + (largeSize >> HeapGeometry.tiny.unitShift) + 1
    region.fill(region.payloadStart, count: 16 << 10)
    region.fill(table + rest * 64, count: 64, with: 0xA5)
    try region.persist(region.payloadStart, count: 16 << 10)
  }
  private static let largeSize = 9000

  static var all: [AnyScenario] {
    [
      AnyScenario(make("heap-format-alone", holding: 40, soil)),
      AnyScenario(make("heap-format-large", holding: largeSize, soilRest)),
    ]
  }

  private static func make(
    _ name: String, holding byteCount: Int, _ soil: @escaping @Sendable (PersistentRegion) throws -> Void
  ) -> Scenario {
    func format() -> Scenario.Operation {
      Scenario.Operation("format") {
        try $0.format()
      } model: {
        $0 = $0 ?? []
      }
    }
    func hold(_ owner: UInt32) -> Scenario.Operation {
      Scenario.Operation("allocate") {
        try $0.hold(owner, byteCount)
      } model: {
        $0?.insert(owner)
      }
    }
    var scenario = Scenario(
      name,
      create: { region in
        try soil(region)
        return Place(region)
      },
      open: { region in
        let place = Place(region)
        // An error says that there is no heap; where there is one, it is whole.
        place.heap = try? PersistentHeap.open(region, options: HeapHarness.options())
        if let problems = place.heap?.statistics.recovery.problems, !problems.isEmpty {
          throw ExampleError("opening reports damage: \(problems)")
        }
        return place
      }, observe: { try $0.owners() }, operations: [format(), hold(1), hold(2)])
    scenario.invariant = {
      let problems = try $0.heap?.verify().problems ?? []
      if !problems.isEmpty { throw ExampleError("\(problems)") }
    }
    scenario.continuation = [format(), hold(3)]
    scenario.close = { $0.heap?.close() }
    return scenario
  }
}
