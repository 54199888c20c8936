import CNVM
import Glibc

// Who waited for the last batch has just been told, and is likely to be back with its next change in a moment. If the
// first to come wrote at once, the others would miss that batch, and two groups of threads would take turns, each half
// as large and each waiting for two syncs. So the last to come writes; those before it sleep:
//
//     sync ends ── A back, sleeps ── B back, sleeps ── C, the last, writes for all three
//                  └ times the wait: a fraction of a sync after the end of the last one, A writes without the missing
//
// How long A waits is learnt from how long they take to come back: up to a sync, beyond which it is better for two groups
// to take turns. Nobody polls: where the machine is busy, a thread that yields may lose the processor for longer than a
// sync takes. And nobody takes a lock on waking up: of eight who do at once, seven would go to sleep again.
extension JournaledFileMedium {
  /// The longest that anybody waits for others, in nanoseconds, whatever a sync takes; and the least part of a sync, at
  /// most the time that follows, that is waited in any case.
  private static let longestGathering: UInt64 = 1_000_000
  private static let leastPartOfSync: UInt64 = 4
  private static let longestLeast: UInt64 = 200_000

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
    let last = nvm_load_relaxed(slot + 16)
    if last &+ 1 == t.pointee.batch { t.pointee.returns += 1 }
    nvm_store_relaxed(slot + 16, t.pointee.batch)
    guard t.pointee.arrivalsBefore > 1, last &+ 2 >= t.pointee.batch else { return }
    // The batch before the one that is written now, or was written last, ended earlier.
    let isEarlier = last &+ 2 == t.pointee.batch && !t.pointee.isLed
    let taken = Self.now() &- (isEarlier ? t.pointee.syncEndBefore : t.pointee.syncEnd)
    if taken <= t.pointee.syncTime { t.pointee.comingBack = max(t.pointee.comingBack, taken) }
  }

  /// With the mutex, by a thread that waits for the open batch while nobody leads: `nil` where that batch should be
  /// written now. Else until when to sleep, after which all is to be looked at again; of those who sleep one has a clock.
  /// Before it leaves it clears `gathered`, so that no other relies on it.
  func gathering() -> UInt64? {
    let t = tail
    guard t.pointee.arrivalsBefore > 1, t.pointee.returns < t.pointee.arrivalsBefore else { return nil }
    if t.pointee.gathered == t.pointee.batch { return .max }
    let sync = t.pointee.syncTime
    let least = min(sync / Self.leastPartOfSync, Self.longestLeast)
    let learnt = min(t.pointee.comeBack &+ t.pointee.comeBack / 4, sync, Self.longestGathering)
    let end = t.pointee.syncEnd &+ max(least, learnt)
    guard Self.now() < end else { return nil }
    t.pointee.gathered = t.pointee.batch
    return end
  }

  // MARK: Sleep

  // Who waits for a batch sleeps on a word of it (two are enough: the batch that is written, and the open one) and looks
  // at the durable position when it wakes up. The word changes, under the mutex, before anybody is woken.

  private func word(of batch: UInt64) -> UnsafeMutableRawPointer { words + 64 + Int(batch & 1) * 64 }

  /// Gives the mutex away and sleeps until the batch that `position` lies in is written, or there is something else to
  /// look at, or it is `end`. May return early. Returns the open batch's number.
  func sleep(until position: UInt64, or end: UInt64) -> UInt64 {
    let t = tail
    let open = t.pointee.batch
    let batch = position > t.pointee.base ? open : open &- 1
    let word = word(of: batch)
    let seen = nvm_load_relaxed(word)
    t.pointee.sleepers[Int(batch & 1)] += 1
    unlock()
    nvm_sleep_on(word, UInt32(truncatingIfNeeded: seen), end)
    return open
  }

  /// With the mutex, given away meanwhile: a leader has finished. Wakes those of the batch that it wrote, if it did, and
  /// one of those of the open one, to lead or to gather.
  func wakeSleepers(isSealed: Bool) {
    let t = tail
    let open = Int(t.pointee.batch & 1)
    let next = t.pointee.sleepers[open]
    let done = isSealed ? t.pointee.sleepers[1 - open] : 0
    guard next + done > 0 else { return }
    let (nextWord, doneWord) = (word(of: UInt64(open)), word(of: UInt64(1 - open)))
    if next > 0 { nvm_store_relaxed(nextWord, nvm_load_relaxed(nextWord) &+ 1) }
    if done > 0 {
      nvm_store_relaxed(doneWord, nvm_load_relaxed(doneWord) &+ 1)
      t.pointee.sleepers[1 - open] = 0
    }
    unlock()
    if next > 0 { nvm_wake_sleepers(nextWord, 1) }
    if done > 0 { nvm_wake_sleepers(doneWord, .max) }
    lock()
  }

  /// With the mutex: wakes all.
  func wakeSleepers() {
    for batch in UInt64(0)..<2 {
      let word = word(of: batch)
      nvm_store_relaxed(word, nvm_load_relaxed(word) &+ 1)
      tail.pointee.sleepers[Int(batch)] = 0
      nvm_wake_sleepers(word, .max)
    }
  }
}
