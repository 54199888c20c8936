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
    func hold(_ owner: UInt32) throws {
      guard let heap, try owners()?.contains(owner) == false else { return }
      _ = try heap.allocate(byteCount: 40, owner: OwnerToken(rawValue: owner))
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

  static func make() -> Scenario {
    func format() -> Scenario.Operation {
      Scenario.Operation("format") {
        try $0.format()
      } model: {
        $0 = $0 ?? []
      }
    }
    func hold(_ owner: UInt32) -> Scenario.Operation {
      Scenario.Operation("allocate") {
        try $0.hold(owner)
      } model: {
        $0?.insert(owner)
      }
    }
    var scenario = Scenario(
      "heap-format-alone",
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
