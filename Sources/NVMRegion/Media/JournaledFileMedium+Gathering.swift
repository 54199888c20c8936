import CNVM
import Glibc

// Who waited for the last batch has just been told, and is likely to be back with its next change in a moment. If the
// first to come wrote at once, the others would miss that batch, and two groups of threads would take turns, each half
// as large and each waiting for two syncs. So the last to come writes; those before it sleep:
//
//     sync ends ── A back, sleeps ── B back, sleeps ── C, the last, writes for all three
//                  └ times the wait: a fraction of a sync after the end of the last one, A writes without the missing
//
// Nobody polls: where the machine is busy, a thread that yields may lose the processor for longer than a sync takes.
extension JournaledFileMedium {
  /// The longest that anybody waits for others, in nanoseconds; and at most this part of what a sync takes.
  private static let longestGathering: UInt64 = 200_000
  private static let partOfSync: UInt64 = 4

  static func now() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
  }

  /// With the mutex: the thread is going to wait for the open batch.
  func arrive() {
    let slot = slot
    // Of those who share a slot nobody could say who is back.
    guard slot != slots else { return }
    let t = tail
    t.pointee.arrivals += 1
    if nvm_load_relaxed(slot + 16) &+ 1 == t.pointee.batch { t.pointee.returns += 1 }
    nvm_store_relaxed(slot + 16, t.pointee.batch)
  }

  /// With the mutex, by a thread that waits for the open batch while nobody leads. False where that batch should be
  /// written now; else some time has passed, and all is to be looked at again.
  ///
  /// Of those who sleep here one has a clock. Before it leaves it clears `gathered`, so that no other relies on it; a
  /// batch that was sealed meanwhile wakes all of them when it is written.
  func gathers() -> Bool {
    let t = tail
    guard t.pointee.arrivalsBefore > 1, t.pointee.returns < t.pointee.arrivalsBefore else { return false }
    let batch = t.pointee.batch
    if t.pointee.gathered == batch {
      wait()
      return true
    }
    let end = t.pointee.syncEnd &+ min(t.pointee.syncTime / Self.partOfSync, Self.longestGathering)
    guard Self.now() < end else { return false }
    t.pointee.gathered = batch
    nvm_wait_until(changed, mutex, end)
    if t.pointee.gathered == batch { t.pointee.gathered = 0 }
    return true
  }
}
