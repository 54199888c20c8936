import CBench
import Foundation

/// Threads that stay: what allocators keep per thread stays with them from one stretch to the next.
final class Workers: @unchecked Sendable {
  let count: Int
  private let cpuTime: Bool
  private let condition = NSCondition()
  private var job: (@Sendable (Int) -> Void)?
  private var generation = 0
  private var running = 0
  private var isOver = false
  private var began: [UInt64]
  private var ended: [UInt64]

  /// - Parameter cpuTime: count the threads' processor time, not the clock on the wall.
  init(_ count: Int, cpuTime: Bool = false) {
    self.cpuTime = cpuTime
    self.count = count
    began = Array(repeating: 0, count: count)
    ended = began
    for i in 0..<count {
      let thread = Thread { [self] in work(i) }
      thread.stackSize = 4 << 20
      thread.start()
    }
  }
  private func work(_ i: Int) {
    var seen = 0
    while true {
      condition.lock()
      while generation == seen && !isOver { condition.wait() }
      if isOver {
        condition.unlock()
        return
      }
      seen = generation
      let body = job!
      condition.unlock()
      let t0 = cpuTime ? bench_cpu_ns() : bench_ns()
      body(i)
      let t1 = cpuTime ? bench_cpu_ns() : bench_ns()
      condition.lock()
      began[i] = t0
      ended[i] = t1
      running -= 1
      condition.broadcast()
      condition.unlock()
    }
  }
  /// Runs `body` once on each thread; the nanoseconds from the first start to the last end, or, of processor time,
  /// those of the busiest.
  func run(_ body: @escaping @Sendable (Int) -> Void) -> UInt64 {
    condition.lock()
    defer { condition.unlock() }
    job = body
    running = count
    generation += 1
    condition.broadcast()
    while running > 0 { condition.wait() }
    job = nil
    if cpuTime { return zip(began, ended).map { $1 - $0 }.max()! }
    return ended.max()! - began.min()!
  }
  func stop() {
    condition.lock()
    isOver = true
    condition.broadcast()
    condition.unlock()
  }
}
