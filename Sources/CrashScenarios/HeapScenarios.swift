import NVMTesting
import NVMalloc

/// The heap, in tiny geometry: units of 1 KiB, two lanes of eight lines, objects from 8 KiB on.
package enum HeapScenarios {
  typealias Scenario = CrashScenario<HeapHarness, HeapHarness.State>
  typealias Operation = Scenario.Operation

  package static func all(seed: UInt64) -> [AnyScenario] {
    [
      AnyScenario(format()), AnyScenario(HeapRepairScenario.make()),
      AnyScenario(blocks()),
      AnyScenario(moves()), AnyScenario(cells()),
      AnyScenario(publications()), AnyScenario(slabs()),
      AnyScenario(large()), AnyScenario(joined()), AnyScenario(defragmentation()), AnyScenario(growth()),
      AnyScenario(tableMove()),
      AnyScenario(roots()),
      AnyScenario(laneReuse()), AnyScenario(overflow()), AnyScenario(reopening()),
      AnyScenario(random(seed: seed), isSeeded: true), AnyScenario(twoThreads(seed: seed)),
      AnyScenario(twoShares(seed: seed)),
      AnyScenario(handover()), AnyScenario(HeapFreeScenario.make()),
    ] + HeapFormatScenario.all + HeapRestScenarios.all + HeapInterruptions.all
  }

  static func scenario(_ name: String, _ operations: [Operation], shares: Int = 1) -> Scenario {
    let options = HeapHarness.options(shares: shares)
    var scenario = Scenario(
      name, create: { try HeapHarness.create($0, options) }, open: { try HeapHarness.open($0, options) },
      observe: { try $0.observe() }, operations: operations)
    scenario.invariant = { try $0.verify() }
    scenario.close = { $0.close() }
    scenario.continuation = [
      put(11, 100, 911), hold(99, 40), change([(10, 60, 910), (9, 700, 909)], emptied: [11]), release(99),
      change([], emptied: [9, 10]),
    ]
    return scenario
  }

  // MARK: Operations

  static func put(_ i: Int, _ size: Int, _ id: UInt64) -> Operation {
    let cell = HeapHarness.Cell(id: id, size: size)
    return Operation("put") {
      try $0.put(i, cell)
    } model: {
      $0.cells[i] = cell
    }
  }
  static func remove(_ i: Int) -> Operation {
    Operation("remove") {
      try $0.remove(i)
    } model: {
      $0.cells[i] = nil
    }
  }
  static func hold(_ owner: UInt32, _ size: Int) -> Operation {
    Operation("allocate") {
      try $0.hold(owner, size)
    } model: {
      if $0.held[owner] == nil { $0.held[owner] = size }
    }
  }
  static func holdByEmptyStep(_ owner: UInt32, _ size: Int) -> Operation {
    Operation("allocate, publish nothing") {
      try $0.holdByEmptyStep(owner, size)
    } model: {
      if $0.held[owner] == nil { $0.held[owner] = size }
    }
  }
  static func release(_ owner: UInt32) -> Operation {
    Operation("deallocate") {
      try $0.release(owner)
    } model: {
      $0.held[owner] = nil
      $0.stamped.remove(owner)
    }
  }
  static func stamp(_ owner: UInt32) -> Operation {
    Operation("write") {
      try $0.stamp(owner)
    } model: {
      if $0.held[owner] != nil { $0.stamped.insert(owner) }
    }
  }
  static func resize(_ owner: UInt32, _ size: Int) -> Operation {
    Operation("reallocate") {
      try $0.resize(owner, size)
    } model: {
      if $0.held[owner] != nil { $0.held[owner] = size }
    }
  }
  static func change(_ entries: [(Int, Int, UInt64)], emptied: [Int]) -> Operation {
    let entries = entries.map { ($0.0, HeapHarness.Cell(id: $0.2, size: $0.1)) }
    return Operation("publish") {
      try $0.change(entries, emptied: emptied)
    } model: { state in
      for (i, cell) in entries { state.cells[i] = cell }
      for i in emptied { state.cells[i] = nil }
    }
  }
  static func root(_ name: String, _ isThere: Bool) -> Operation {
    Operation(isThere ? "set root" : "remove root") {
      try $0.setRoot(name, isThere: isThere)
    } model: { state in
      if isThere { state.roots.insert(name) } else { state.roots.remove(name) }
    }
  }

  /// Changes the value of a root that is there.
  static func moveRoot(_ name: String) -> Operation {
    Operation("move root") {
      try $0.moveRoot(name)
    } model: {
      $0.roots.formUnion([name, "\(name) moved"])
    }
  }
  static func link(_ name: String) -> Operation {
    Operation("make root link") {
      try $0.linkRoot(name)
    } model: {
      $0.roots.insert(name)
    }
  }

  // MARK: Scenarios

  /// Formatting a heap, where something else stood before: it is there or it is not.
  static func format() -> Scenario {
    var scenario = scenario("heap-format", [hold(1, 30), hold(2, 9000)])
    let options = HeapHarness.options()
    scenario.create = { region in
      try HeapFormatScenario.soil(region)
      return try HeapHarness.create(region, options)
    }
    scenario.exploresCreation = true
    return scenario
  }

  static func blocks() -> Scenario {
    scenario(
      "heap-allocate",
      [
        hold(1, 10), hold(2, 100), release(1), hold(3, 20), resize(2, 60), resize(2, 300), resize(3, 24),
        release(2), release(3),
      ])
  }

  /// What was written to a block is there wherever it moves.
  static func moves() -> Scenario {
    scenario(
      "heap-reallocate",
      [
        hold(1, 100), stamp(1), resize(1, 300), hold(2, 9000), resize(1, 9000), stamp(2), resize(2, 600),
        resize(1, 40), release(2), release(1),
      ])
  }

  static func cells() -> Scenario {
    scenario(
      "heap-place",
      [put(0, 40, 1), put(1, 8, 2), remove(0), put(0, 200, 3), put(0, 30, 4), remove(1), remove(0)])
  }

  static func publications() -> Scenario {
    scenario(
      "heap-publish",
      [
        change([(0, 20, 1), (1, 30, 2), (2, 130, 3)], emptied: []), change([(3, 20, 4)], emptied: [0, 1]),
        change([(0, 500, 5), (2, 8, 6)], emptied: [3]), change([], emptied: [0, 2]), holdByEmptyStep(1, 30),
      ])
  }

  /// The first block of many classes, more blocks than a batch, and slabs given back.
  static func slabs() -> Scenario {
    var operations: [Operation] = []
    for (i, size) in [20, 200, 1000, 3000].enumerated() { operations.append(hold(UInt32(i + 1), size)) }
    for owner in 10..<30 as Range<UInt32> { operations.append(hold(owner, 30)) }
    for owner in 10..<30 as Range<UInt32> { operations.append(release(owner)) }
    for owner in 1..<5 as Range<UInt32> { operations.append(release(owner)) }
    operations.append(hold(5, 5000))
    return scenario("heap-slabs", operations)
  }

  /// Objects that are extents of their own; free extents split and merge.
  static func large() -> Scenario {
    var scenario = scenario(
      "heap-large",
      [
        hold(1, 9000), put(0, 8200, 7), release(1), hold(2, 12000), remove(0), hold(3, 8192),
        resize(2, 15000),
        change([(1, 9000, 8)], emptied: [0]), release(2), release(3), remove(1),
      ])
    scenario.regionSize = 96 << 10
    return scenario
  }

  /// Objects over several free extents, which memory has joined and the medium has not: with a rest, without one, and
  /// from a slab that is given back.
  static func joined() -> Scenario {
    var scenario = scenario(
      "heap-joined",
      [
        hold(1, 9000), hold(2, 10000), hold(3, 11000), hold(4, 9000), release(1), release(2), join,
        hold(5, 12000), release(3), join, hold(6, 18000), release(5), release(6), release(4), join,
        hold(7, 40000), release(7), put(0, 20000, 1), change([(1, 12000, 2)], emptied: [0]), join,
        hold(8, 27000),
      ])
    scenario.regionSize = 96 << 10
    return scenario
  }

  /// Spare extents become runs, which are joined in memory.
  static let join = Operation("join spares") {
    $0.joinSpares()
  } model: { _ in
  }

  /// Blocks of two classes, few in each of several slabs, moved together.
  static func defragmentation() -> Scenario {
    let defragment = Operation("defragment") {
      try $0.defragment()
    } model: { _ in
    }
    // Units of 1 KiB: slabs of a few blocks.
    var operations: [Operation] = []
    for owner in 1..<7 as Range<UInt32> { operations.append(hold(owner, 400)) }
    for i in 0..<6 { operations.append(put(i, 400, UInt64(i + 1))) }
    for owner in 7..<13 as Range<UInt32> { operations.append(hold(owner, 400)) }
    operations += [put(6, 400, 7), put(7, 1000, 8), put(8, 1000, 9)]
    for owner in 1..<13 as Range<UInt32> where owner != 6 { operations.append(release(owner)) }
    operations += [
      remove(1), remove(2), remove(4), defragment, put(9, 400, 10), remove(7), defragment, hold(20, 9000),
    ]
    return scenario("heap-defragment", operations)
  }

  /// More than the region holds at first.
  static func growth() -> Scenario {
    var scenario = scenario(
      "heap-growth",
      [
        hold(1, 20000), hold(2, 20000), put(0, 15000, 1), hold(3, 100), release(2), hold(4, 30000),
        put(1, 9000, 2),
      ])
    scenario.maximumSize = 256 << 10
    return scenario
  }

  /// The first growth that the table of extents has no room for.
  static func tableMove() -> Scenario {
    var scenario = scenario("heap-table-move", [hold(1, 80_000)])
    scenario.maximumSize = 512 << 10
    return scenario
  }

  static func roots() -> Scenario {
    scenario(
      "heap-roots",
      [
        root("a", true), root("b", true), root("a", false), root("c", true), root("a", true),
        root("b", false), link("d"), root("d", true), link("e"), root("d", false),
        moveRoot("c"),
      ])
  }

  /// So many records that the lanes go round several times.
  static func laneReuse() -> Scenario {
    scenario(
      "heap-lane-reuse", (0..<14).map { change([($0 % 3, 20 + $0, UInt64($0 + 1))], emptied: [($0 + 1) % 3]) }
    )
  }

  /// A publication that no lane can hold.
  static func overflow() -> Scenario {
    let many = (0..<9).map { ($0, 24, UInt64($0 + 1)) }
    let again = (0..<9).map { ($0, 40, UInt64($0 + 100)) }
    return scenario(
      "heap-overflow",
      [change(many, emptied: []), change(again, emptied: []), change([], emptied: Array(0..<9))])
  }

  static func reopening() -> Scenario {
    scenario(
      "heap-reopen",
      [
        hold(1, 50), put(0, 50, 1), .reopen, release(1), put(0, 60, 2), .restart, put(1, 900, 3), remove(0),
        .reopen, hold(2, 9000),
      ])
  }

  /// Fifty operations drawn at random.
  static func random(seed: UInt64) -> Scenario {
    var generator = SeededGenerator(seed: seed)
    var scenario = scenario("heap-random", (0..<50).map { _ in operation(&generator, 0..<9) })
    scenario.maximumSize = 192 << 10
    return scenario
  }

  private static func operation(_ generator: inout SeededGenerator, _ cells: Range<Int>) -> Operation {
    let sizes = [8, 17, 40, 64, 100, 250, 600, 1500, 4000, 9000]
    let size = sizes[generator.below(sizes.count)]
    let i = cells.lowerBound + generator.below(cells.count)
    let owner = UInt32(i + 1)
    let id = generator.next() | 1
    switch generator.below(8) {
    case 0, 1: return put(i, size, id)
    case 2: return remove(i)
    case 3: return hold(owner, size)
    case 4: return release(owner)
    case 5: return resize(owner, size)
    default:
      var entries: [(Int, Int, UInt64)] = []
      var emptied: [Int] = []
      for cell in cells {
        switch generator.below(4) {
        case 0: entries.append((cell, sizes[generator.below(7)], generator.next() | 1))
        case 1: emptied.append(cell)
        default: break
        }
      }
      return change(entries, emptied: emptied)
    }
  }

  /// Two threads with cells and owners of their own.
  static func twoThreads(seed: UInt64) -> Scenario {
    var generator = SeededGenerator(seed: seed)
    var scenario = scenario("heap-2-threads", [])
    scenario.threads = [0..<4, 4..<8].map { cells in (0..<12).map { _ in operation(&generator, cells) } }
    scenario.maximumSize = 192 << 10
    return scenario
  }

  /// The same where the threads have shares of the size classes, and take from each other's what they lack.
  static func twoShares(seed: UInt64) -> Scenario {
    var generator = SeededGenerator(seed: seed &+ 1)
    var scenario = scenario("heap-2-shares", [], shares: 8)
    scenario.threads = [0..<4, 4..<8].map { cells in (0..<12).map { _ in operation(&generator, cells) } }
    scenario.maximumSize = 192 << 10
    return scenario
  }

  /// One thread links blocks, the other unlinks each as soon as it sees it: what the second has done must not be
  /// undone by a replay of the first one's record.
  static func handover() -> Scenario {
    var scenario = scenario("heap-handover", [])
    let cells = 0..<4
    let take = cells.map { i in
      Operation("take") {
        try $0.take(i)
      } model: { state -> Bool in
        defer { state.cells[i] = nil }
        return state.cells[i] != nil
      }
    }
    let hand = cells.map { i in
      let cell = HeapHarness.Cell(id: UInt64(i + 1), size: 40)
      return Operation("hand over") {
        try $0.hand(i, cell)
      } model: {
        $0.cells[i] = cell
      }
    }
    scenario.threads = [hand, take]
    return scenario
  }
}
