import Glibc
import NVMRegion
import Synchronization

/// One run of a scenario on a simulated medium, from a fresh region or from an image.
struct ScenarioRun<Structure, State: Equatable & Sendable> {
  typealias Scenario = CrashScenario<Structure, State>

  let trace: Trace
  let strays: [SimulatedMedium.Stray]
  let timeline: Timeline<State>
  /// A failure without any crash.
  let failure: (name: String, message: String)?
  /// Kept so that no image is mapped at the address of the run: a persisted address must not work by luck.
  private let regions: [PersistentRegion]

  /// Runs `create` and all operations, and closes.
  static func record(_ scenario: Scenario, model: CrashModel, seed: UInt64) -> ScenarioRun {
    let threaded = scenario.threads.count > 1 && scenario.interruptions == nil
    let medium = SimulatedMedium(
      image: nil, size: scenario.firstSize + model.journalSize,
      capacity: scenario.capacity + model.journalSize,
      model: model, capturesSites: true,
      pauses: threaded ? SeededGenerator(seed: seed) : nil)
    var recorder = Recorder(scenario: scenario, medium: medium)
    recorder.recordAll()
    return recorder.finish(medium)
  }

  /// Recovers an image, goes on with the continuation, and closes.
  static func recover(
    _ scenario: Scenario, model: CrashModel, image: UnsafeRawBufferPointer, outer: [State?], continues: Bool
  ) -> ScenarioRun {
    let medium = SimulatedMedium(
      image: image, size: image.count, capacity: scenario.capacity + model.journalSize, model: model,
      capturesSites: true)
    var recorder = Recorder(scenario: scenario, medium: medium)
    recorder.recordRecovery(outer: outer, continues: continues)
    return recorder.finish(medium)
  }

  fileprivate init(
    trace: Trace, strays: [SimulatedMedium.Stray], timeline: Timeline<State>,
    failure: (name: String, message: String)?, regions: [PersistentRegion]
  ) {
    (self.trace, self.strays, self.timeline, self.failure, self.regions) =
      (trace, strays, timeline, failure, regions)
  }
}

/// Carries out a run.
private struct Recorder<Structure, State: Equatable & Sendable> {
  typealias Operation = CrashOperation<Structure, State>
  let scenario: CrashScenario<Structure, State>
  let medium: SimulatedMedium
  let timeline = Timeline<State>()
  var region: PersistentRegion?
  var structure: Structure?
  var failure: (name: String, message: String)?
  /// Regions that were closed on the way.
  var old: [PersistentRegion] = []

  init(scenario: CrashScenario<Structure, State>, medium: SimulatedMedium) {
    self.scenario = scenario
    self.medium = medium
  }

  mutating func recordAll() {
    let initial: State
    do {
      let region = try medium.create(
        size: scenario.firstSize, maximumSize: scenario.capacity, uuid: scenarioUUID)
      self.region = region
      let structure = try scenario.create(region)
      self.structure = structure
      initial = try scenario.observe(structure)
      medium.markReady()
    } catch {
      failure = ("create", "\(error)")
      return
    }
    timeline.append(from: -1, [nil, initial])
    timeline.append(from: medium.trace.ready, [initial])
    if scenario.threads.count == 1 { runAlone(initial) } else { runThreads(initial) }
  }

  mutating func recordRecovery(outer: [State?], continues: Bool) {
    do {
      let region = try medium.open(maximumSize: scenario.capacity)
      self.region = region
      let structure = try scenario.open(region)
      self.structure = structure
      let state = try scenario.observe(structure)
      medium.markReady()
      timeline.append(from: -1, outer)
      timeline.append(from: medium.trace.ready, [state])
      guard continues else { return }
      // By a thread that did not recover: its fences do not settle what recovery flushed and did not fence.
      let shared = Unchecked((recorder: self, structure: structure, region: region))
      let problem = Mutex<String?>(nil)
      let start = state
      Threads.run([
        {
          do {
            try shared.value.recorder.goOn(shared.value.structure, shared.value.region, start)
          } catch {
            problem.withLock { $0 = "\(error)" }
          }
        }
      ])
      failure = problem.withLock { $0 }.map { ("recovery", $0) }
      if failure == nil { self.structure = nil }
    } catch {
      failure = ("recovery", "\(error)")
    }
  }

  private func goOn(_ structure: Structure, _ region: PersistentRegion, _ start: State) throws {
    var state = start
    for operation in scenario.continuation {
      let before = state
      let index = medium.begin(operation.name, thread: 0)
      operation.advance(&state)
      timeline.append(from: medium.trace.events.count - 1, operation.allowed(from: before, to: state))
      guard case .perform(let perform) = operation.action else { continue }
      _ = try perform(structure)
      medium.acknowledge(index)
      timeline.append(from: medium.trace.events.count - 1, [state])
    }
    let index = medium.begin("close", thread: 0)
    try scenario.close(structure)
    try region.close()
    medium.detach()
    medium.acknowledge(index)
  }

  private mutating func runAlone(_ initial: State) {
    var state = initial
    for operation in scenario.threads[0] {
      let before = state
      let index = medium.begin(operation.name, thread: 0)
      let begin = medium.trace.operations[index].begin
      do {
        switch operation.action {
        case .perform(let perform):
          let outcome = try perform(structure!)
          if !outcome(&state) {
            failure = (operation.name, "its result is not the model's, in state \(before)")
            return
          }
        case .reopen(let cleanly): try reopen(cleanly: cleanly)
        }
      } catch {
        failure = (operation.name, "\(error)")
        return
      }
      medium.acknowledge(index)
      timeline.append(from: begin, operation.allowed(from: before, to: state))
      timeline.append(from: medium.trace.operations[index].acknowledge, [state])
    }
    endWithClose()
  }

  private mutating func reopen(cleanly: Bool) throws {
    guard let region, let structure else { return }
    if cleanly {
      try scenario.close(structure)
      self.structure = nil
      try region.close()
    } else {
      self.structure = nil
      region.abandon()
    }
    medium.detach()
    old.append(region)
    let reopened = try medium.open(maximumSize: scenario.capacity)
    self.region = reopened
    self.structure = try scenario.open(reopened)
  }

  private mutating func endWithClose() {
    guard scenario.endsWithClose, failure == nil, let region, let structure else { return }
    let index = medium.begin("close", thread: 0)
    do {
      try scenario.close(structure)
      self.structure = nil
      try region.close()
    } catch {
      failure = ("close", "\(error)")
    }
    medium.detach()
    medium.acknowledge(index)
  }

  private mutating func runThreads(_ initial: State) {
    guard let structure else { return }
    if let parted = scenario.threads.joined().first(where: { $0.between != nil }) {
      failure = (parted.name, "an operation in parts needs a scenario of one thread")
      return
    }
    let shared = Unchecked(structure)
    let results = Mutex<[[(index: Int, outcome: Operation.Outcome)]]>(scenario.threads.map { _ in [] })
    let problem = Mutex<(name: String, message: String)?>(nil)
    let medium = self.medium
    let gate = Atomic<Int>(0)
    let all = scenario.threads.count
    let turns = scenario.interruptions.map { Turns(medium, at: $0) }
    let bodies = scenario.threads.enumerated().map { (t, operations) in
      { @Sendable in
        gate.wrappingAdd(1, ordering: .acquiringAndReleasing)
        while gate.load(ordering: .acquiring) < all { sched_yield() }
        defer { turns?.end(thread: t) }
        for (k, operation) in operations.enumerated() {
          turns?.begin(thread: t, k)
          defer { turns?.finish(thread: t, k) }
          let index = medium.begin(operation.name, thread: t)
          do {
            guard case .perform(let perform) = operation.action else { continue }
            let outcome = try perform(shared.value)
            medium.acknowledge(index)
            results.withLock { $0[t].append((index, outcome)) }
          } catch {
            problem.withLock { $0 = $0 ?? (operation.name, "\(error)") }
            return
          }
        }
      }
    }
    Threads.run(bodies)
    failure = problem.withLock { $0 }
    guard failure == nil else { return }
    let operations = medium.trace.operations
    let history = History<State>(
      threads: results.withLock { $0 }.map { steps in
        steps.map {
          History<State>.Step(
            begin: operations[$0.index].begin, acknowledge: operations[$0.index].acknowledge,
            outcome: $0.outcome)
        }
      })
    if !history.resolve(initial: initial, into: timeline) {
      failure = ("threads", "no order of the operations explains what they returned")
      return
    }
    endWithClose()
  }

  mutating func finish(_ medium: SimulatedMedium) -> ScenarioRun<Structure, State> {
    let trace = medium.trace
    medium.detach()
    if let structure { try? scenario.close(structure) }
    structure = nil
    region?.abandon()
    if let region { old.append(region) }
    return ScenarioRun(
      trace: trace, strays: medium.strays, timeline: timeline, failure: failure, regions: old)
  }
}

/// The same for every run, so that a seed says it all.
private let scenarioUUID = RegionUUID(high: 0x6E76_6D74_6573_4000, low: 0x8000_6372_6173_6865)

/// Hands a value to threads that the scenario's author vouches for.
private struct Unchecked<Value>: @unchecked Sendable {
  let value: Value
  init(_ value: Value) { self.value = value }
}

/// Plain threads (a task could hop between flush and fence).
package enum Threads {
  private final class Body {
    let run: @Sendable () -> Void
    init(_ run: @escaping @Sendable () -> Void) { self.run = run }
  }

  static func start(_ body: @escaping @Sendable () -> Void) -> pthread_t? {
    var thread = pthread_t()
    let argument = Unmanaged.passRetained(Body(body))
    let result = pthread_create(
      &thread, nil,
      { raw in
        Unmanaged<Body>.fromOpaque(raw!).takeRetainedValue().run()
        return nil
      }, argument.toOpaque())
    if result != 0 {
      argument.release()
      return nil
    }
    return thread
  }

  /// Runs all bodies at once and waits for them.
  package static func run(_ bodies: [@Sendable () -> Void]) {
    let threads = bodies.map { body -> pthread_t in
      guard let thread = start(body) else { fatalError("no thread could be started for a crash scenario") }
      return thread
    }
    for thread in threads { pthread_join(thread, nil) }
  }
}
