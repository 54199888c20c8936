#if DEBUG
  import Synchronization
#endif

/// The checksums that crash recovery relies on. In debug builds a test can have one believed unread, to see that
/// the crash explorer notices; release builds have no such switch.
package enum TrustedChecksum: Int, Sendable, CaseIterable {
  case superblock = 1
  case heapHeader
  case logRecord
  case journal
  case leaf

  #if DEBUG
    private static let trusted = Atomic<Int>(0)

    /// Believes this checksum, whatever it says, while `body` runs. For the whole process.
    package func whileTrusted<R>(_ body: () throws -> R) rethrows -> R {
      Self.trusted.store(rawValue, ordering: .sequentiallyConsistent)
      defer { Self.trusted.store(0, ordering: .sequentiallyConsistent) }
      return try body()
    }
  #endif

  /// Whether to go on: where the checksum is right.
  @inline(__always)
  package func accepts(_ isRight: Bool) -> Bool {
    #if DEBUG
      if Self.trusted.load(ordering: .relaxed) == rawValue { return true }
    #endif
    return isRight
  }
}
