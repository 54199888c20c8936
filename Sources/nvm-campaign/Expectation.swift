import CNVM
import CNVMCut
import Glibc
import NVM

/// What the store of a campaign must hold after a round, by what was promised and by what may have been under way.
struct Expectation {
  var media: StoreMedia
  /// What each thread's part held when the round began, and the steps that led there.
  var states: [WorkState]
  var steps: [Int]
  /// The round's seed.
  var seed: UInt64
  /// The store was set up before the crash: it must be there.
  var isSetUp: Bool
  /// How many steps of each thread must be done at least, and can be done at most.
  var bounds: [ClosedRange<Int>]

  /// Opens the store in a child and compares; nil: all is well, and the board has the steps found.
  /// - Parameter repeats: whether to close the store, open it again and find the same.
  func check(_ path: String, repeats: Bool, plan: CutPlan? = nil, board: Board) throws(CampaignError)
    -> String?
  {
    board.message = ""
    let pid = try fork(seconds: 120)
    if pid == 0 { compareAndExit(path, repeats, plan, board) }
    let end = ChildEnd.of(pid)
    if end == .exit(0) { return nil }
    return end == .exit(1) ? board.message : "while the store was checked: \(end)"
  }

  /// The child's whole life.
  @inline(never)
  private func compareAndExit(_ path: String, _ repeats: Bool, _ plan: CutPlan?, _ board: Board) -> Never {
    do {
      try plan?.arm(board)
      try compare(path, repeats: repeats, board)
    } catch {
      board.message = "\(error)"
      _exit(1)
    }
    _exit(0)
  }

  private func compare(_ path: String, repeats: Bool, _ board: Board) throws {
    if access(path, F_OK) != 0 {
      if isSetUp { throw Oddity(description: "the file is gone") }
      for (thread, count) in steps.enumerated() { board.setFound(thread, count) }
      return
    }
    let store = try NVMStore.open(path: path, options: WorkStore.options(media))
    var found = try Inventory(store, threads: states.count)
    board.setCount(0, store.recovery.replayedChanges)
    if isSetUp {
      for name in ["numbers", "words", "marks"] where !store.hasTree(named: name) {
        throw Oddity(description: "the tree \"\(name)\" is gone")
      }
    }
    for thread in states.indices {
      let (step, rest) = try match(found.states[thread], thread)
      board.setFound(thread, step)
      // What is not one atomic step is brought to its end, so that the steps say what the store holds.
      if case .clear(let range) = rest {
        try WorkStore.clear(range, of: thread, in: store)
        found.states[thread].carryOut(.clear(range))
      }
    }
    for block in found.passing { try store.heap.deallocate(block) }
    guard repeats else { return }
    try store.close()
    let again = try NVMStore.open(path: path, options: WorkStore.options(media))
    guard again.recovery.wasCleanlyClosed else {
      throw Oddity(description: "the clean shutdown was not seen")
    }
    guard try Inventory(again, threads: states.count).states == found.states else {
      throw Oddity(description: "opened a second time, the store holds something else")
    }
  }

  /// The number of steps after which a thread's part would hold what was found; once the last of them is brought to
  /// its end, where that is due.
  private func match(_ found: WorkState, _ thread: Int) throws -> (steps: Int, rest: Work?) {
    var state = states[thread]
    let bounds = bounds[thread]
    for step in steps[thread]..<bounds.lowerBound {
      state.carryOut(Work(seed: seed, thread: thread, step: step))
    }
    let least = state
    for step in bounds {
      if state == found { return (step, nil) }
      let work = Work(seed: seed, thread: thread, step: step)
      if step < bounds.upperBound, state.mayBecome(found, amid: work) { return (step + 1, work) }
      state.carryOut(work)
    }
    throw Oddity(
      description: "thread \(thread) should stand at a step of \(bounds) and stands at none: against step "
        + "\(bounds.lowerBound), \(found.difference(from: least)); the next is "
        + "\(Work(seed: seed, thread: thread, step: bounds.lowerBound))")
  }
}
