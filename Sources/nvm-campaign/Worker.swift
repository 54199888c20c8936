import CNVM
import CNVMCut
import Glibc
import NVM

/// A child that works on the store until it is killed.
struct Worker {
  var path: String
  var media: StoreMedia
  var seed: UInt64
  /// The first step of each thread.
  var from: [Int]
  /// Reads what others write, and promises what it saw: a value that was read may not vanish.
  var hasReader = true
  /// The control: promises each step before it is carried out.
  var promisesEarly = false
  var board: Board

  /// What the shim is to do; nil: nothing.
  var plan: CutPlan?

  /// Starts it; returns its number.
  func start() throws(CampaignError) -> Int32 {
    let pid = try fork(seconds: 120)
    if pid == 0 { live() }
    return pid
  }

  /// The child's whole life.
  @inline(never)
  private func live() -> Never {
    do {
      try begin()
    } catch {
      end(error)
    }
    while true { pause() }
  }

  private func begin() throws {
    try plan?.arm(board)
    let work = try WorkStore(path: path, media: media, threads: from.count)
    board.promised.isSetUp = true
    for thread in from.indices {
      startThread {
        do { try run(work, thread) } catch { end(error) }
      }
    }
    guard hasReader else { return }
    startThread {
      do { try read(work) } catch { end(error) }
    }
  }

  private func run(_ work: WorkStore, _ thread: Int) throws {
    var step = from[thread]
    while true {
      if promisesEarly { board.promised.setDone(thread, step + 1) }
      try work.carryOut(Work(seed: seed, thread: thread, step: step), thread: thread)
      step += 1
      board.promised.setDone(thread, step)
      board.setCount(1, Int(nvm_cut_syncs()))
    }
  }

  private func read(_ work: WorkStore) throws {
    var random = Random(seed ^ 0x5EE)
    while true {
      let thread = random.below(from.count)
      if let step = try work.numbers.value(forKey: WorkStore.number(thread, random.below(600))) {
        board.promised.sawStep(step, of: thread)
      }
    }
  }

  /// Only a cut may make an operation fail: the thread stops, and what it was doing is in flight. Else it is a finding.
  private func end(_ error: any Error) {
    if plan != nil, board.frozen.isComplete {
      let isFromCut =
        switch error {
        case let error as NVMError: error.code == .poisoned || error.errno == EIO || error.errno == EROFS
        default: error is CampaignError
        }
      while isFromCut { pause() }
    }
    board.message = "the worker stopped: \(error)"
    _exit(3)
  }
}

/// Starts a thread that never ends.
private func startThread(_ body: @escaping () -> Void) {
  var thread = pthread_t()
  let box = Unmanaged.passRetained(Body(body))
  let result = pthread_create(
    &thread, nil,
    {
      Unmanaged<Body>.fromOpaque($0!).takeRetainedValue().body(); return nil
    }, box.toOpaque())
  precondition(result == 0)
}

private final class Body {
  let body: () -> Void
  init(_ body: @escaping () -> Void) { self.body = body }
}

/// A campaign cannot go on: nothing that the store did.
struct CampaignError: Error {
  var text: String
}

/// A child of one thread: the campaign itself never opens a store, so it has no other.
func fork(seconds: UInt32) throws(CampaignError) -> Int32 {
  fflush(nil)
  let pid = nvm_cut_fork(seconds)
  guard pid >= 0 else { throw CampaignError(text: "No child process: error \(-pid).") }
  return pid
}

/// How a child ended.
enum ChildEnd: Equatable, CustomStringConvertible {
  case exit(Int32)
  case signal(Int32)

  init(_ status: Int32) { self = status & 0x7F == 0 ? .exit(status >> 8 & 0xFF) : .signal(status & 0x7F) }

  static func of(_ pid: Int32) -> ChildEnd {
    var status: Int32 = 0
    _ = nvm_cut_wait(pid, &status, 1)
    return ChildEnd(status)
  }
  /// nil while it runs.
  static func ifAny(_ pid: Int32) -> ChildEnd? {
    var status: Int32 = 0
    return nvm_cut_wait(pid, &status, 0) == 1 ? ChildEnd(status) : nil
  }

  var description: String {
    switch self {
    case .exit(let status): "it ended with status \(status)"
    case .signal(SIGALRM): "it hung and was stopped"
    case .signal(let signal): "it crashed by signal \(signal)"
    }
  }
}
