/// Whether what several threads saw of one register (the entry of one key) can be put in an order in which each call
/// takes effect at one moment between its beginning and its end (Herlihy, Wing, TOPLAS 1990). Keys are independent of
/// each other, and a history is linearizable exactly when that of each key is, so keys are checked one by one.
struct RegisterHistory {
  enum Action: Equatable {
    case read(Int?)
    /// Stored `new`; what was there before is returned.
    case write(new: Int?, old: Int?)
    /// Stored `new` if there was no entry; whether it did.
    case insert(new: Int, done: Bool)
    /// Stored `new` over whatever was there. With no end: cut off by a crash, so it happened or it did not.
    case put(new: Int?)

    /// The register's state afterwards; nil where the action cannot have met this state.
    func apply(to state: Int?) -> Int?? {
      switch self {
      case .read(let seen): seen == state ? .some(state) : nil
      case .write(let new, let old): old == state ? .some(new) : nil
      case .insert(let new, let done): done == (state == nil) ? .some(done ? new : state) : nil
      case .put(let new): .some(new)
      }
    }
  }
  struct Call {
    var begin: UInt64
    /// `UInt64.max` for a call that never returned.
    var end: UInt64
    var action: Action
  }
  var calls: [Call]
  var initial: Int?
  /// What is there at the very end, if that is known.
  var final: Int??

  /// Wing and Gong's search with Lowe's memory of configurations: a set of calls that have taken effect, and a state.
  var isLinearizable: Bool {
    let calls = calls.sorted { $0.begin < $1.begin }
    struct Configuration: Hashable {
      var done: [UInt64]
      var state: Int?
    }
    var seen = Set<Configuration>()
    var stack = [Configuration(done: [UInt64](repeating: 0, count: (calls.count + 63) / 64), state: initial)]
    while let now = stack.popLast() {
      var firstEnd = UInt64.max
      var isComplete = true
      var candidates: [Int] = []
      for (i, call) in calls.enumerated() where now.done[i / 64] & 1 << UInt64(i % 64) == 0 {
        if call.end < .max { isComplete = false }
        if call.begin > firstEnd { break }
        firstEnd = min(firstEnd, call.end)
        candidates.append(i)
      }
      if isComplete, final == nil || final! == now.state { return true }
      for i in candidates where calls[i].begin <= firstEnd {
        guard let state = calls[i].action.apply(to: now.state) else { continue }
        var next = Configuration(done: now.done, state: state)
        next.done[i / 64] |= 1 << UInt64(i % 64)
        if seen.insert(next).inserted { stack.append(next) }
      }
    }
    return false
  }
}
