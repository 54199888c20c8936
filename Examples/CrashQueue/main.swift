import NVMRegion
import NVMTesting

// A queue of numbers on a persistent region, and the crash explorer pointed at it. One of the two versions has a
// mistake that no ordinary test and no `kill -9` can see.

/// A ring of 8 words behind two counters, each on a line of its own.
///
///     payload  +0 numbers taken so far   +64 numbers added so far   +128 the ring
struct Queue: Sendable {
  static let capacity: UInt64 = 8
  let region: PersistentRegion
  let isCareful: Bool

  private var taken: Offset { region.payloadStart }
  private var added: Offset { region.payloadStart + 64 }
  private func slot(_ n: UInt64) -> Offset { region.payloadStart + 128 + Int(n % Self.capacity) * 8 }

  func add(_ number: UInt64) throws {
    let n = region.load(added)
    guard n - region.load(taken) < Self.capacity else { return }
    region.store(number, at: slot(n))
    region.flush(slot(n), count: 8)
    // Without this line the counter may reach the medium before the number that it counts.
    if isCareful { try region.order() }
    try region.storeDurable(n + 1, at: added)
  }

  func take() throws -> UInt64? {
    let n = region.load(taken)
    guard n < region.load(added) else { return nil }
    let number = region.load(slot(n))
    try region.storeDurable(n + 1, at: taken)
    return number
  }

  func numbers() -> [UInt64] {
    (region.load(taken)..<region.load(added)).map { region.load(slot($0)) }
  }
}

/// What is done to the queue, and what each step means to an ordinary array.
func scenario(isCareful: Bool) -> CrashScenario<Queue, [UInt64]> {
  typealias Step = CrashOperation<Queue, [UInt64]>
  func add(_ number: UInt64) -> Step {
    Step("add") {
      try $0.add(number)
    } model: { array in
      if array.count < Queue.capacity { array.append(number) }
    }
  }
  let take = Step("take") {
    try $0.take()
  } model: { array in
    array.isEmpty ? nil : array.removeFirst()
  }
  let open: @Sendable (PersistentRegion) throws -> Queue = { Queue(region: $0, isCareful: isCareful) }
  var scenario = CrashScenario<Queue, [UInt64]>(
    isCareful ? "careful queue" : "hasty queue", create: open, open: open, observe: { $0.numbers() },
    operations: (1...5).map(add) + [take, take, .restart] + (6...12).map(add) + [take])
  scenario.continuation = [add(100), take, take]
  return scenario
}

let explorer = CrashExplorer()
let hasty = explorer.explore(scenario(isCareful: false))
let careful = explorer.explore(scenario(isCareful: true))
print("\(hasty.violations.first.map { "\($0)" } ?? "The mistake was not found.")\n\n\(careful)")
if hasty.violations.isEmpty || !careful.violations.isEmpty { fatalError("not as the README says") }
