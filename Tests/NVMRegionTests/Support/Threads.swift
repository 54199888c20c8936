import Foundation

/// Runs `body` on `count` threads of its own, all started before any may finish, and waits for them.
func onThreads(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
  let done = DispatchGroup()
  let barrier = Barrier(count)
  for index in 0..<count {
    done.enter()
    let thread = Thread {
      barrier.wait()
      body(index)
      done.leave()
    }
    thread.stackSize = 256 << 10
    thread.start()
  }
  done.wait()
}

/// Lets threads go on only when `count` of them have arrived.
final class Barrier: @unchecked Sendable {
  private let condition = NSCondition()
  private let count: Int
  private var arrived = 0
  private var generation = 0

  init(_ count: Int) { self.count = count }

  func wait() {
    condition.lock()
    defer { condition.unlock() }
    let mine = generation
    arrived += 1
    if arrived == count {
      arrived = 0
      generation += 1
      condition.broadcast()
    }
    while generation == mine { condition.wait() }
  }
}
