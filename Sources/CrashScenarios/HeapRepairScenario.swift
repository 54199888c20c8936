import NVMRegion
import NVMTesting
import NVMalloc

/// A damaged heap, repaired: before, the damaged space is set aside; after, it is free; what was whole is there throughout.
enum HeapRepairScenario {
  struct State: Equatable, Sendable {
    var owners: Set<UInt32>
    var isDamaged: Bool
  }
  typealias Scenario = CrashScenario<Place, State>

  final class Place: @unchecked Sendable {
    let region: PersistentRegion
    var heap: PersistentHeap

    init(_ region: PersistentRegion) throws {
      self.region = region
      heap = try PersistentHeap.open(region, options: HeapHarness.options())
    }
    func repair() throws {
      heap.close()
      try PersistentHeap.repair(region)
      heap = try PersistentHeap.open(region, options: HeapHarness.options())
    }
    func hold(_ owner: UInt32, _ size: Int) throws {
      guard try !owners().contains(owner) else { return }
      _ = try heap.allocate(byteCount: size, owner: OwnerToken(rawValue: owner))
    }
    func owners() throws -> Set<UInt32> {
      var result: Set<UInt32> = []
      // Damaged headers are passed over; verifying tells of them.
      try? heap.forEachBlock { result.insert($0.owner.rawValue) }
      return result
    }
  }

  static func make() -> Scenario {
    func hold(_ owner: UInt32, _ size: Int) -> Scenario.Operation {
      Scenario.Operation("allocate") {
        try $0.hold(owner, size)
      } model: {
        $0.owners.insert(owner)
      }
    }
    let repair = Scenario.Operation("repair") {
      try $0.repair()
    } model: {
      $0.isDamaged = false
    }
    var scenario = Scenario(
      "heap-repair", create: { region in try damaged(region) }, open: { try Place($0) },
      observe: { place in
        State(owners: try place.owners(), isDamaged: try !place.heap.verify().isClean)
      }, operations: [hold(5, 40), repair, hold(6, 40), hold(7, 9000)])
    scenario.continuation = [repair, hold(8, 9000)]
    scenario.close = { $0.heap.close() }
    return scenario
  }

  /// Owners 1 and 3 keep small blocks, 2's header is gone; a large block's head is gone, and a slab's mark. So are the heads
  /// of the heap's own areas.
  private static func damaged(_ region: PersistentRegion) throws -> Place {
    let heap = try PersistentHeap.format(region, options: HeapHarness.options())
    func hold(_ owner: UInt32, _ size: Int) throws -> Offset {
      try heap.allocate(byteCount: size, owner: OwnerToken(rawValue: owner))
    }
    _ = try hold(1, 40)
    let small = try hold(2, 40)
    let large = try hold(4, 9000)
    let other = try hold(3, 200)
    heap.close()
    let table = tableOffset(region)
    let heads = [large, .null, table].map { table + ($0.bytes >> 10) * 64 }
    for at in heads + [small - 16, table + (other.bytes >> 10) * 64 + 24] {
      region.store(0x5A5A_5A5A_5A5A_5A5A, at: at)
      try region.persist(at, count: 8)
    }
    return try Place(region)
  }

  static func tableOffset(_ region: PersistentRegion) -> Offset {
    Offset(rawValue: region.load(region.payloadStart + 48))
  }
}
