import CNVM
import Glibc
import NVMRegion

// The gate by which a transaction over several trees shuts out everybody else. One for each tree, in DRAM.
//
//   open     writers pass: they count themselves in and out on a stripe of their thread, two locked adds
//   held     a transaction has touched the tree: its thread may read, other writers wait, readers go on
//   applying its changes are going in: readers wait too, so nobody sees a part of them
//   removed  the tree was taken out of the store: every call throws
//
// Readers count nothing. They note the sequence number before they look and look again if it moved: it is odd while
// changes go in. A tree outside of a store has no transactions, and its writers skip the stripes as well.
//
// Lock order: the gate before everything in the engine. Gates are held by one transaction of a store at a time, so
// the order among gates does not matter.

/// See above. Owned by the engine.
struct TreeGate: @unchecked Sendable {
  private static let stripes = 16
  /// 0 sequence, 8 state, 16 holder's thread, 24 in use; 128… stripes.
  private let words: UnsafeMutableRawPointer
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>

  private enum State {
    static let open: UInt64 = 0
    static let held: UInt64 = 1
    static let applying: UInt64 = 2
    static let removed: UInt64 = 3
  }

  init() {
    let size = 128 + 64 * Self.stripes
    words = .allocate(byteCount: size, alignment: 64)
    words.initializeMemory(as: UInt8.self, repeating: 0, count: size)
    mutex = .allocate(capacity: 1)
    pthread_mutex_init(mutex, nil)
  }
  func deallocate() {
    pthread_mutex_destroy(mutex)
    mutex.deallocate()
    words.deallocate()
  }

  private var state: UnsafeMutableRawPointer { words + 8 }
  private var holder: UnsafeMutableRawPointer { words + 16 }
  private static var thisThread: UInt64 { UInt64(pthread_self()) }
  private var isMine: Bool { nvm_load_acquire(holder) == Self.thisThread }

  /// Whether transactions may come. Set before the tree is shared.
  @inline(__always) private var isInUse: Bool { nvm_load_relaxed(words + 24) != 0 }
  func use() { nvm_store_release(words + 24, 1) }
  @inline(__always) var isRemoved: Bool { nvm_load_relaxed(state) == State.removed }

  // MARK: Writers

  /// Counts a writer in; waits while a transaction holds the tree. Returns what ``leave(_:)`` takes.
  /// - Throws: `.invalidArgument` when the calling thread's own transaction holds it, `.closed` when it was removed.
  @inline(__always) func enter() throws(NVMError) -> UnsafeMutableRawPointer? {
    guard isInUse else { return nil }
    let stripe = words + (128 &+ 64 &* (Int(nvm_thread_slot()) & (Self.stripes &- 1)))
    _ = nvm_fetch_add_seqcst(stripe, 1)
    if nvm_load_seqcst(state) == State.open { return stripe }
    return try enterSlowly(stripe)
  }
  @inline(__always) func leave(_ stripe: UnsafeMutableRawPointer?) {
    if let stripe { _ = nvm_fetch_add_seqcst(stripe, 0 &- 1) }
  }

  @inline(never)
  private func enterSlowly(_ stripe: UnsafeMutableRawPointer) throws(NVMError) -> UnsafeMutableRawPointer? {
    while true {
      _ = nvm_fetch_add_seqcst(stripe, 0 &- 1)
      if isMine {
        // The transaction putting its changes in is no guest.
        if nvm_load_seqcst(state) == State.applying { return nil }
        throw NVMError(
          code: .invalidArgument,
          message:
            "The tree is part of the transaction that this thread has open. Change it through tx[tree] until "
            + "the transaction has ended.")
      }
      try waitOpen()
      _ = nvm_fetch_add_seqcst(stripe, 1)
      if nvm_load_seqcst(state) == State.open { return stripe }
    }
  }

  /// Sleeps until the holder has left.
  private func waitOpen() throws(NVMError) {
    if isRemoved { throw removedError() }
    pthread_mutex_lock(mutex)
    pthread_mutex_unlock(mutex)
    if isRemoved { throw removedError() }
  }

  private func removedError() -> NVMError {
    NVMError(code: .closed, message: "The tree was removed from its store.")
  }

  // MARK: Readers

  /// What ``isCurrent(_:)`` takes afterwards. Waits while changes go in.
  @inline(__always) func ticket() throws(NVMError) -> UInt64 {
    let sequence = nvm_load_acquire(words)
    return sequence & 1 == 0 ? sequence : try ticketSlowly()
  }
  /// Whether what was read since the ticket is not part of a transaction that was going in.
  @inline(__always) func isCurrent(_ ticket: UInt64) -> Bool {
    nvm_acquire_fence()
    return nvm_load_relaxed(words) == ticket
  }

  @inline(never) private func ticketSlowly() throws(NVMError) -> UInt64 {
    while true {
      let sequence = nvm_load_acquire(words)
      if sequence & 1 == 0 || (isMine && !isRemoved) { return sequence }
      try waitOpen()
    }
  }

  // MARK: The transaction

  /// Shuts writers out; returns when the last of them has left. Balanced by ``release()`` on the same thread.
  /// - Throws: `.closed` when the tree was removed.
  func hold() throws(NVMError) {
    if isRemoved { throw removedError() }
    pthread_mutex_lock(mutex)
    if isRemoved {
      pthread_mutex_unlock(mutex)
      throw removedError()
    }
    nvm_store_release(holder, Self.thisThread)
    nvm_store_seqcst(state, State.held)
    for i in 0..<Self.stripes {
      var rounds = 0
      while nvm_load_seqcst(words + (128 + 64 * i)) != 0 {
        rounds += 1
        if rounds < 100 { nvm_pause() } else { usleep(20) }
      }
    }
  }

  /// Shuts readers out as well, and lets the holder's changes in.
  func beginApplying() {
    nvm_store_seqcst(state, State.applying)
    _ = nvm_fetch_add_seqcst(words, 1)
  }
  func endApplying() {
    _ = nvm_fetch_add_seqcst(words, 1)
    nvm_store_seqcst(state, State.held)
  }

  func release() {
    nvm_store_release(holder, 0)
    nvm_store_seqcst(state, State.open)
    pthread_mutex_unlock(mutex)
  }

  /// Lets nobody in any more. Called by the holder, in the place of ``release()``.
  func remove() {
    _ = nvm_fetch_add_seqcst(words, 1)
    nvm_store_release(holder, 0)
    nvm_store_seqcst(state, State.removed)
    pthread_mutex_unlock(mutex)
  }
}
