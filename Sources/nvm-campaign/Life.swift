import Glibc

/// A store from its making on, round by round: a short life of a few rounds, then a new one begins.
struct Life {
  var media: StoreMedia
  var path: String
  var threads: Int
  private(set) var states: [WorkState]
  private(set) var steps: [Int]
  /// A worker has set the store up: from then on it must be there.
  private(set) var isSetUp = false
  /// The seed of each round, and where the threads stood after it: from these everything can be worked out again.
  private(set) var rounds: [(seed: UInt64, steps: [Int])] = []

  init(media: StoreMedia, path: String, threads: Int) {
    (self.media, self.path, self.threads) = (media, path, threads)
    states = [WorkState](repeating: WorkState(), count: threads)
    steps = [Int](repeating: 0, count: threads)
    removeDurably(path)
  }

  /// What the store must hold, given what was promised and how far threads had come at most.
  func expectation(seed: UInt64, promised: Board.Promises, last: Board.Promises) throws(Oddity) -> Expectation
  {
    var bounds: [ClosedRange<Int>] = []
    for thread in 0..<threads {
      let (least, most) = (max(promised.done(thread), promised.seen(thread)), last.done(thread) + 1)
      guard least <= most else {
        throw Oddity(
          description:
            "a reader saw step \(least - 1) of thread \(thread), which had only done \(most - 1) steps")
      }
      bounds.append(least...most)
    }
    return Expectation(
      media: media, states: states, steps: steps, seed: seed, isSetUp: isSetUp || promised.isSetUp,
      bounds: bounds)
  }

  /// The round has passed, and threads stand where the checker found them.
  mutating func advance(seed: UInt64, to found: [Int], isSetUp: Bool) {
    self.isSetUp = isSetUp
    for thread in 0..<threads {
      for step in steps[thread]..<found[thread] {
        states[thread].carryOut(Work(seed: seed, thread: thread, step: step))
      }
    }
    steps = found
    rounds.append((seed, found))
  }
}
