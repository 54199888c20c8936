import Glibc
import Synchronization

/// Ends the process with a message when one image takes too long: recovery that hangs is a violation, and
/// nothing else could report it.
final class Watchdog: Sendable {
  static let shared = Watchdog()
  /// Exit status after a time-out.
  static let status: Int32 = 75

  private let deadline = Atomic<UInt64>(0)
  private let limit = Atomic<UInt64>(0)
  private let ordinal = Atomic<UInt64>(0)
  private let place = Mutex<@Sendable () -> String>({ "" })
  private let started = Atomic<Bool>(false)

  /// Starts watching one exploration; ``restart()`` begins each image's time.
  func watch(limit: Duration, place: @escaping @Sendable () -> String) {
    self.place.withLock { $0 = place }
    let (seconds, attoseconds) = limit.components
    self.limit.store(
      UInt64(max(seconds, 0)) * 1_000_000_000 + UInt64(max(attoseconds, 0) / 1_000_000_000),
      ordering: .relaxed)
    ordinal.store(0, ordering: .relaxed)
    restart()
    if started.exchange(true, ordering: .acquiringAndReleasing) { return }
    let thread = Threads.start { [self] in
      while true {
        usleep(200_000)
        let due = deadline.load(ordering: .relaxed)
        if due != 0, Self.now() > due { expire() }
      }
    }
    if let thread { pthread_detach(thread) }
  }

  func restart() {
    ordinal.wrappingAdd(1, ordering: .relaxed)
    deadline.store(Self.now() &+ limit.load(ordering: .relaxed), ordering: .relaxed)
  }

  func stop() { deadline.store(0, ordering: .relaxed) }

  private func expire() -> Never {
    let text =
      "crash explorer: no answer within \(limit.load(ordering: .relaxed) / 1_000_000) ms for image "
      + "\(ordinal.load(ordering: .relaxed)) of \(place.withLock { $0() })\n"
    _ = text.withCString { write(STDERR_FILENO, $0, strlen($0)) }
    _exit(Self.status)
  }

  private static func now() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }
}
