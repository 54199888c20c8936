public import CNVM

/// How far a journal has come, as any thread may read it without a lock. Refers to its medium's memory.
@frozen @usableFromInline
package struct JournalPositions: @unchecked Sendable {
  @usableFromInline let words: UnsafeMutableRawPointer
  init(_ words: UnsafeMutableRawPointer) { self.words = words }

  /// Whether everything that was appended survives a crash. What a thread has read under a lock or version that was given
  /// back before this call was appended before too: it need not look up the position of that. O(1).
  @inlinable @inline(__always)
  package var isAllDurable: Bool { nvm_load_acquire(words + 24) <= nvm_load_acquire(words) }
}
