import CNVM
import Glibc

/// A word that is 1 while somebody holds it. For short sections; a waiter soon yields its processor.
struct SpinLock {
  let word: UnsafeMutableRawPointer

  @inline(__always)
  init(_ word: UnsafeMutableRawPointer) { self.word = word }

  @inline(__always)
  func lock() {
    if !nvm_compare_exchange(word, 0, 1) { wait() }
  }
  /// As ``tryLock()``, for a lock that is likely free.
  @inline(__always)
  func takeIfFree() -> Bool { nvm_compare_exchange(word, 0, 1) }
  @inline(__always)
  func tryLock() -> Bool { nvm_load_relaxed(word) == 0 && nvm_compare_exchange(word, 0, 1) }
  @inline(__always)
  func unlock() { nvm_store_release(word, 0) }

  @inline(never)
  private func wait() {
    var spins = 0
    while true {
      while nvm_load_relaxed(word) != 0 {
        spins += 1
        if spins & 63 == 0 { sched_yield() } else { nvm_pause() }
      }
      if nvm_compare_exchange(word, 0, 1) { return }
    }
  }
}

/// Many sharers or one: whoever writes to the extent table without the extent lock shares it; moving the
/// table takes it alone. Not recursive.
///
/// Sharers share a lock with those of the same slot only, on lines of its own; who takes the gate alone takes all of them.
final class TableGate: @unchecked Sendable {
  private static let count = 16
  /// Bytes; a processor fetches lines in pairs.
  private static let stride = 128
  private let locks: UnsafeMutableRawPointer

  init() {
    assert(MemoryLayout<pthread_rwlock_t>.size <= Self.stride)
    locks = .allocate(byteCount: Self.count * Self.stride, alignment: Self.stride)
    var attributes = pthread_rwlockattr_t()
    pthread_rwlockattr_init(&attributes)
    pthread_rwlockattr_setkind_np(&attributes, 2)  // writers go first, or a busy heap could never grow
    for i in 0..<Self.count { pthread_rwlock_init(lock(i), &attributes) }
    pthread_rwlockattr_destroy(&attributes)
  }
  deinit {
    for i in 0..<Self.count { pthread_rwlock_destroy(lock(i)) }
    locks.deallocate()
  }
  private func lock(_ i: Int) -> UnsafeMutablePointer<pthread_rwlock_t> {
    (locks + i &* Self.stride).assumingMemoryBound(to: pthread_rwlock_t.self)
  }
  /// A thread keeps its slot as long as it lives, so it leaves by the lock that it came by.
  private var own: UnsafeMutablePointer<pthread_rwlock_t> {
    lock(Int(truncatingIfNeeded: nvm_thread_slot()) & (Self.count - 1))
  }
  func enter() { pthread_rwlock_rdlock(own) }
  func leave() { pthread_rwlock_unlock(own) }
  /// One thread at a time: with the extent lock.
  func enterAlone() { for i in 0..<Self.count { pthread_rwlock_wrlock(lock(i)) } }
  func leaveAlone() { for i in 0..<Self.count { pthread_rwlock_unlock(lock(i)) } }
}
