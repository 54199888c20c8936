import CNVM
import Glibc

/// A value behind a POSIX mutex.
///
/// Not `Synchronization.Mutex`: that one is slower when contended on Linux, and the thread sanitizer, which knows
/// the POSIX calls, takes all that it guards for races. Not recursive.
package final class Lock<Value>: @unchecked Sendable {
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>
  private let value: UnsafeMutablePointer<Value>

  /// - Parameter isShort: whether it is held for a microsecond or two, less than it takes to sleep and be woken: then a
  ///   waiter tries for a while first.
  package init(_ value: Value, isShort: Bool = false) {
    mutex = .allocate(capacity: 1)
    if isShort { nvm_make_short_mutex(mutex) } else { nvm_make_mutex(mutex) }
    self.value = .allocate(capacity: 1)
    self.value.initialize(to: value)
  }

  deinit {
    pthread_mutex_destroy(mutex)
    mutex.deallocate()
    value.deinitialize(count: 1)
    value.deallocate()
  }

  package func withLock<Result, E: Error>(_ body: (inout Value) throws(E) -> Result) throws(E) -> Result {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    return try body(&value.pointee)
  }

  /// Runs nothing and returns `nil` where the lock is held.
  package func withLockIfAvailable<Result, E: Error>(
    _ body: (inout Value) throws(E) -> Result
  ) throws(E) -> Result? {
    guard pthread_mutex_trylock(mutex) == 0 else { return nil }
    defer { pthread_mutex_unlock(mutex) }
    return try body(&value.pointee)
  }
}

/// A value behind a POSIX mutex, whose changes can be waited for.
package final class Monitor<Value>: @unchecked Sendable {
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>
  private let changed: UnsafeMutablePointer<pthread_cond_t>
  private let value: UnsafeMutablePointer<Value>

  package init(_ value: Value) {
    mutex = .allocate(capacity: 1)
    nvm_make_mutex(mutex)
    changed = .allocate(capacity: 1)
    nvm_make_condition(changed)
    self.value = .allocate(capacity: 1)
    self.value.initialize(to: value)
  }

  deinit {
    pthread_cond_destroy(changed)
    pthread_mutex_destroy(mutex)
    changed.deallocate()
    mutex.deallocate()
    value.deinitialize(count: 1)
    value.deallocate()
  }

  /// Changes the value and wakes those who wait. Then waits until `condition`, asked with the lock held, holds,
  /// and returns the value as it is then.
  @discardableResult
  package func change(
    _ body: (inout Value) -> Void, thenWaitUntil condition: (Value) -> Bool = { _ in true }
  ) -> Value {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    body(&value.pointee)
    pthread_cond_broadcast(changed)
    while !condition(value.pointee) { pthread_cond_wait(changed, mutex) }
    return value.pointee
  }
}
