import CNVM
import Glibc
import NVMRegion

/// A lock that knows its owner: what would wait for itself throws instead.
struct OwnedLock: @unchecked Sendable {
  private final class Storage {
    let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    let owner = UnsafeMutableRawPointer.allocate(byteCount: 8, alignment: 8)
    init() {
      pthread_mutex_init(mutex, nil)
      nvm_store_relaxed(owner, 0)
    }
    deinit {
      pthread_mutex_destroy(mutex)
      mutex.deallocate()
      owner.deallocate()
    }
  }
  private let storage = Storage()
  private static var thisThread: UInt64 { UInt64(pthread_self()) }

  /// - Throws: `.invalidArgument` with the message when the calling thread holds it already.
  func lock(_ message: String) throws(NVMError) {
    if nvm_load_relaxed(storage.owner) == Self.thisThread {
      throw NVMError(code: .invalidArgument, message: message)
    }
    pthread_mutex_lock(storage.mutex)
    nvm_store_relaxed(storage.owner, Self.thisThread)
  }
  func unlock() {
    nvm_store_relaxed(storage.owner, 0)
    pthread_mutex_unlock(storage.mutex)
  }
}
