/// The states that a crash may leave at each moment of a run: after all acknowledged operations, with each
/// one in flight done or not.
final class Timeline<State: Equatable & Sendable> {
  /// The states allowed from one event on, until the next entry. `nil` stands for "nothing opens".
  final class Allowed {
    let states: [State?]
    /// By number of an observed state (see `ImageChecker`).
    var verdicts: [Int: Bool] = [:]
    init(_ states: [State?]) { self.states = states }
    func contains(_ state: State?) -> Bool { states.contains { $0 == state } }
  }
  private var starts: [Int] = []
  private var entries: [Allowed] = []

  /// Appends an entry; entries come in the order of their events.
  func append(from event: Int, _ states: [State?]) {
    if let last = entries.last, last.states == states { return }
    starts.append(event)
    entries.append(Allowed(states))
  }

  /// What is allowed just after `event` (-1 for the beginning).
  func allowed(after event: Int) -> Allowed {
    var low = 0
    var high = starts.count
    while low < high {
      let middle = (low + high) / 2
      if starts[middle] <= event { low = middle + 1 } else { high = middle }
    }
    return entries[max(0, low - 1)]
  }
}

/// The operations of a run, to be put in an order that explains what they returned.
struct History<State: Equatable & Sendable> {
  struct Step {
    var begin: Int
    var acknowledge: Int
    /// Advances the model; false where the result does not fit.
    var outcome: @Sendable (inout State) -> Bool
  }
  var threads: [[Step]]

  /// Finds the allowed states after every begin and acknowledgement, into `timeline`.
  ///
  /// A state is reached for each vector "so many operations of each thread are done"; an operation comes
  /// after all that were acknowledged before it began. Returns false where no order explains the results.
  func resolve(initial: State, into timeline: Timeline<State>) -> Bool {
    let counts = threads.map(\.count)
    var reached: [[Int]: [State]] = [threads.map { _ in 0 }: [initial]]
    var frontier = Array(reached.keys)
    while !frontier.isEmpty {
      var next: Set<[Int]> = []
      for vector in frontier {
        for t in threads.indices where vector[t] < counts[t] {
          let step = threads[t][vector[t]]
          let ready = threads.indices.allSatisfy { u in
            u == t || vector[u] == counts[u] || threads[u][vector[u]].acknowledge > step.begin
          }
          guard ready else { continue }
          var after = vector
          after[t] += 1
          for state in reached[vector]! {
            var changed = state
            guard step.outcome(&changed) else { continue }
            if !reached[after, default: []].contains(changed) {
              reached[after, default: []].append(changed)
              next.insert(after)
            }
          }
        }
      }
      frontier = Array(next)
    }
    return fill(timeline, reached)
  }

  private func fill(_ timeline: Timeline<State>, _ reached: [[Int]: [State]]) -> Bool {
    var moments: Set<Int> = []
    for step in threads.joined() {
      moments.insert(step.begin)
      if step.acknowledge < Int.max { moments.insert(step.acknowledge) }
    }
    var explained = true
    for moment in moments.sorted() {
      // Of each thread: all acknowledged, and one more where one is in flight.
      var vectors: [[Int]] = [[]]
      for steps in threads {
        let done = steps.prefix { $0.acknowledge <= moment }.count
        let begun = steps.prefix { $0.begin <= moment }.count
        vectors = vectors.flatMap { v in (done...begun).map { v + [$0] } }
      }
      var states: [State] = []
      for vector in vectors {
        for state in reached[vector] ?? [] where !states.contains(state) { states.append(state) }
      }
      if states.isEmpty { explained = false }
      timeline.append(from: moment, states)
    }
    return explained
  }
}
