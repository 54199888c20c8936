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
final class TableGate: @unchecked Sendable {
  private let lock: UnsafeMutablePointer<pthread_rwlock_t>

  init() {
    lock = .allocate(capacity: 1)
    var attributes = pthread_rwlockattr_t()
    pthread_rwlockattr_init(&attributes)
    pthread_rwlockattr_setkind_np(&attributes, 2)  // writers go first, or a busy heap could never grow
    pthread_rwlock_init(lock, &attributes)
    pthread_rwlockattr_destroy(&attributes)
  }
  deinit {
    pthread_rwlock_destroy(lock)
    lock.deallocate()
  }
  func enter() { pthread_rwlock_rdlock(lock) }
  func enterAlone() { pthread_rwlock_wrlock(lock) }
  func leave() { pthread_rwlock_unlock(lock) }
}
