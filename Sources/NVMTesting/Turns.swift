import Dispatch

/// Lets the second of two threads run one operation at a given moment of one of the first (see
/// `CrashScenario.interruptions`).
final class Turns: Sendable {
  private let medium: SimulatedMedium
  private let moments: [Int]
  private let go = DispatchSemaphore(value: 0)
  private let done = DispatchSemaphore(value: 0)
  /// After that the second thread is taken to wait for a lock of the first.
  private static let patience = DispatchTimeInterval.milliseconds(50)

  init(_ medium: SimulatedMedium, at moments: [Int]) {
    self.medium = medium
    self.moments = moments
  }

  func begin(thread: Int, _ k: Int) {
    guard thread == 0 else { return go.wait() }
    guard k < moments.count else { return }
    medium.interrupt(beforeFence: moments[k]) { [self] in
      go.signal()
      // Put back for `finish`.
      if done.wait(timeout: .now() + Self.patience) == .success { done.signal() }
    }
  }

  func finish(thread: Int, _ k: Int) {
    guard thread == 0 else {
      done.signal()
      return
    }
    guard k < moments.count else { return }
    if medium.cancelInterruption() { go.signal() }
    done.wait()
  }

  /// A thread that fails leaves nobody waiting.
  func end(thread: Int) {
    for _ in moments { if thread == 0 { go.signal() } else { done.signal() } }
  }
}
