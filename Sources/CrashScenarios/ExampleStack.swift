package import NVMRegion
package import NVMTesting

/// A stack of numbers as a linked list in a raw region: 64 nodes of two lines each.
///
///     payload  +0   head: offset of the top node, 0 if empty        +8  magic, written by create
///              +64  (only a planted mistake writes here)
///              +128 nodes: next, value, 13 words that repeat the value, value + next as a check
///
/// A node is written and flushed where nothing points yet, then ordered before the one word that publishes
/// it. Which nodes are free is derived at open, so no crash can leak one.
package final class ExampleStack: @unchecked Sendable {
  /// The mistakes that tests plant; see `PlantedBugTests`.
  package enum Flaw: Sendable {
    case none, missingFlush, missingOrder, missingFence, publishTooEarly, firstLineOnly, storeAfterFlush
    case strayStore, redundantFlush, redundantFence, persistedLock, persistedAddress, unpersistedCreation
    case reuseBeforeUnlink, readerBeforeFence, refusesEmpty, flushAfterPublish
  }
  private let region: PersistentRegion
  private let flaw: Flaw
  private var used: Set<Offset> = []
  private static let magic: UInt64 = 0x6B63_6174_5345_7845
  private static let nodeSize = 128
  private static let nodeCount = 64

  private var head: Offset { region.payloadStart }
  private var lockWord: Offset { region.payloadStart + 64 }
  private func node(_ i: Int) -> Offset { region.payloadStart + 128 + i * Self.nodeSize }

  private init(_ region: PersistentRegion, _ flaw: Flaw) {
    self.region = region
    self.flaw = flaw
  }

  package static func create(_ region: PersistentRegion, flaw: Flaw = .none) throws -> ExampleStack {
    let stack = ExampleStack(region, flaw)
    region.store(0, at: stack.head)
    region.store(magic, at: stack.head + 8)
    if flaw != .unpersistedCreation { try region.persist(stack.head, count: 16) }
    return stack
  }

  package static func open(_ region: PersistentRegion, flaw: Flaw = .none) throws -> ExampleStack {
    let stack = ExampleStack(region, flaw)
    guard region.load(stack.head + 8) == magic else { throw ExampleError("the stack was never created") }
    guard region.load(stack.lockWord) == 0 else { throw ExampleError("the stack is locked") }
    try stack.visitNodes { offset, _ in
      stack.used.insert(offset)
    }
    if flaw == .refusesEmpty, stack.used.isEmpty {
      throw ExampleError("an empty stack is taken for a corrupt one")
    }
    return stack
  }

  /// From the top down; checks every node.
  private func visitNodes(_ body: (Offset, UInt64) throws -> Void) throws {
    var at = Offset(rawValue: region.load(head))
    var steps = 0
    while !at.isNull {
      guard region.contains(at, count: Self.nodeSize), (at - node(0)) % Self.nodeSize == 0,
        steps < Self.nodeCount
      else { throw ExampleError("a link leads to \(at)") }
      let value = region.load(at + 8)
      for i in 2..<15 where region.load(at + i * 8) != value { throw ExampleError("node \(at) is torn") }
      guard region.load(at + 120) == value &+ region.load(at) else {
        throw ExampleError("node \(at) fails its check")
      }
      try body(at, value)
      at = next(at)
      steps += 1
    }
  }

  private func next(_ at: Offset) -> Offset {
    let link = region.load(at)
    guard flaw == .persistedAddress, link != 0 else { return Offset(rawValue: link) }
    return Offset(rawValue: link &- UInt64(UInt(bitPattern: region.baseAddress)))
  }

  /// From the bottom up.
  package func elements() throws -> [UInt64] {
    var result: [UInt64] = []
    try visitNodes { _, value in result.append(value) }
    return result.reversed()
  }

  private func writeNode(_ at: Offset, next: Offset, value: UInt64, isChecked: Bool = true) {
    var link = next.rawValue
    if flaw == .persistedAddress, link != 0 { link += UInt64(UInt(bitPattern: region.baseAddress)) }
    var words = [UInt64](repeating: value, count: 16)
    words[0] = link
    words[15] = isChecked ? value &+ link : 0
    if flaw == .strayStore {
      // Under a window, in case the region is protected: the explorer is to find it.
      try? region.withWritable(at, count: 128) { bytes in words.withUnsafeBytes { bytes.copyMemory(from: $0) }
      }
    } else {
      words.withUnsafeBytes { region.write($0, at: at) }
    }
  }

  private func freeNode() throws -> Offset {
    for i in 0..<Self.nodeCount where !used.contains(node(i)) { return node(i) }
    throw ExampleError("the stack is full")
  }

  package func push(_ value: UInt64) throws {
    let at = try freeNode()
    let top = Offset(rawValue: region.load(head))
    if flaw == .persistedLock {
      region.store(1, at: lockWord)
      try region.persist(lockWord, count: 8)
    }
    if flaw == .publishTooEarly {
      try publish(at)
      writeNode(at, next: top, value: value)
      try region.persist(at, count: Self.nodeSize)
    } else {
      writeNode(at, next: top, value: value, isChecked: flaw != .storeAfterFlush)
      if flaw != .missingFlush, flaw != .flushAfterPublish {
        region.flush(at, count: flaw == .firstLineOnly ? 64 : Self.nodeSize)
      }
      if flaw == .storeAfterFlush { region.store(value &+ top.rawValue, at: at + 120) }
      if flaw == .redundantFlush { region.flush(at, count: Self.nodeSize) }
      if flaw != .missingOrder { try region.order() }
      if flaw == .redundantFence { try region.order() }
      try publish(at)
      if flaw == .flushAfterPublish { try region.persist(at, count: Self.nodeSize) }
    }
    used.insert(at)
    if flaw == .persistedLock { try region.storeDurable(0, at: lockWord) }
  }

  private func publish(_ at: Offset) throws {
    region.store(at.rawValue, at: head)
    region.flush(head, count: 8)
    if flaw != .missingFence { try region.fence() }
  }

  package func pop() throws -> UInt64? {
    let top = Offset(rawValue: region.load(head))
    guard !top.isNull else { return nil }
    let value = region.load(top + 8)
    region.store(next(top).rawValue, at: head)
    try region.persist(head, count: 8)
    used.remove(top)
    return value
  }

  /// Replaces the top element.
  package func replace(_ value: UInt64) throws {
    let top = Offset(rawValue: region.load(head))
    guard !top.isNull else { return }
    // The old node stays as it is until the new one is published durably.
    let at = flaw == .reuseBeforeUnlink ? top : try freeNode()
    writeNode(at, next: next(top), value: value)
    region.flush(at, count: Self.nodeSize)
    try region.order()
    try publish(at)
    used.insert(at)
    if at != top { used.remove(top) }
  }

  package static func scenario(_ flaw: Flaw = .none) -> CrashScenario<ExampleStack, [UInt64]> {
    typealias Operation = CrashOperation<ExampleStack, [UInt64]>
    func push(_ value: UInt64) -> Operation {
      Operation("push") {
        try $0.push(value)
      } model: {
        $0.append(value)
      }
    }
    let pop = Operation("pop") {
      try $0.pop()
    } model: {
      $0.popLast()
    }
    let replace = Operation("replace") {
      try $0.replace(77)
    } model: {
      if !$0.isEmpty { $0[$0.count - 1] = 77 }
    }
    var scenario = CrashScenario<ExampleStack, [UInt64]>(
      "example-stack", create: { try create($0, flaw: flaw) }, open: { try open($0, flaw: flaw) },
      observe: { try $0.elements() },
      operations: [push(1), push(2), replace, pop, push(3), push(4), pop, pop, pop, pop, push(5)])
    scenario.regionSize = 20 << 10
    scenario.continuation = [push(8), replace, push(9), pop]
    scenario.budgets = [
      "push": CrashBudget(flushedLines: 3, fences: 2), "pop": CrashBudget(flushedLines: 1, fences: 1),
    ]
    return scenario
  }
}

/// Why an example would not open.
package struct ExampleError: Error, CustomStringConvertible {
  package var description: String
  init(_ description: String) { self.description = description }
}
