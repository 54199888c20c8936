package import CNVM
import Glibc

/// Owns a guard (nvm_guard.h) of one region's mapping.
package final class PageGuard: @unchecked Sendable {
  package let guarding: UnsafeMutablePointer<nvm_guard>

  /// Closes the whole mapping.
  init(
    _ protection: RegionProtection, base: UnsafeMutableRawPointer, capacity: Int, mapped: Int, path: String
  ) throws(NVMError) {
    var mode = NVM_GUARD_IMMEDIATE
    var nanoseconds: UInt64 = 0
    switch protection {
    case .none, .immediate: break
    case .deferred(let interval):
      mode = NVM_GUARD_DEFERRED
      let (seconds, attoseconds) = interval.components
      // Between 10 µs and an hour.
      nanoseconds = UInt64(min(max(Double(seconds) * 1e9 + Double(attoseconds) / 1e9, 10_000), 3.6e12))
    case .keys: mode = NVM_GUARD_KEYS
    }
    var made: UnsafeMutablePointer<nvm_guard>?
    let result = nvm_guard_create(
      &made, base, UInt64(capacity), UInt64(mapped), Int32(mode.rawValue), nanoseconds, path)
    if result == -ENOSYS {
      throw NVMError(
        code: .unsupported,
        message: "This processor or kernel has no protection keys. Choose deferred or immediate protection.",
        path: path)
    }
    if result == -ENOSPC, protection == .keys {
      throw NVMError(
        code: .unsupported,
        message:
          "All protection keys of this process are in use. Close a region, or choose deferred protection.",
        path: path)
    }
    guard result == 0, let made else {
      throw NVMError(
        code: result == -ENOMEM ? .outOfMemory : .system, message: "The file's pages cannot be protected.",
        path: path, errno: -result)
    }
    guarding = made
  }

  deinit {
    nvm_guard_retire(guarding)
    nvm_guard_free(guarding)
  }

  /// What the calling thread has opened for its stores may be closed again.
  func settle() { nvm_guard_settle(guarding) }

  var statistics: ProtectionStatistics {
    var counts = nvm_guard_counts()
    nvm_guard_read_counts(guarding, &counts)
    var result = ProtectionStatistics()
    result.requests = counts.requests
    result.batches = counts.batches
    result.changes = counts.changes
    result.faults = counts.faults
    result.cancelled = counts.cancelled
    result.ahead = counts.ahead
    result.widened = counts.widened
    result.writableBytes = Int(nvm_guard_writable(guarding))
    return result
  }
}
