import Foundation

/// A thread that lives, and so keeps its share, until it is ended; what it is given to do is over when `run` returns.
final class OtherThread: @unchecked Sendable {
  private let threads = Threads()
  private let asked = DispatchSemaphore(value: 0)
  private let answered = DispatchSemaphore(value: 0)
  private var body: (() throws -> Void)?
  private var failure: (any Error)?

  init() {
    threads.run { [self] in
      while true {
        asked.wait()
        guard let body else { return }
        do { try body() } catch { failure = error }
        answered.signal()
      }
    }
  }
  func run(_ body: @escaping () throws -> Void) throws {
    self.body = body
    asked.signal()
    answered.wait()
    self.body = nil
    if let failure { throw failure }
  }
  func end() {
    asked.signal()
    threads.wait()
  }
}
