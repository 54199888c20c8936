import CNVM
import Glibc
import NVMRegion

// The gate by which a transaction over several trees shuts out everybody else. One for each tree, in DRAM.
//
//   open     writers pass: they count themselves in and out on a line of their thread, by plain stores
//   held     a transaction has touched the tree: its thread may read, other writers wait, readers go on
//   applying its changes are going in: readers wait too, so nobody sees a part of them
//   removed  the tree was taken out of the store: every call throws
//
// Readers count nothing. They note the sequence number before they look and look again if it moved: it is odd while
// changes go in. A tree outside of a store has no transactions, and its writers count nothing either.
//
// A writer stores to its line and then reads the state; the holder stores the state and then reads the lines. One of
// them has to see the other, which takes a full barrier between store and load on both sides. Holders are rare, so
// theirs stands for both: it makes every thread pass one (membarrier; the asymmetric Dekker protocol). A writer has no
// locked instruction behind its fence then, which would keep the next operation from beginning before the fence has
// ended. Where the kernel has no such barrier, or a thread no line of its own, writers count by locked additions.
//
// Lock order: the gate before everything in the engine. Gates are held by one transaction of a store at a time, so
// the order among gates does not matter.

/// See above. Owned by the engine.
struct TreeGate: @unchecked Sendable {
  /// Line 0 is for the threads that have none of their own.
  private static let lines = 64
  /// 0 sequence, 8 state, 16 holder's thread, 24 use; 128… lines.
  private let words: UnsafeMutableRawPointer
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>

  private enum State {
    static let open: UInt64 = 0
    static let held: UInt64 = 1
    static let applying: UInt64 = 2
    static let removed: UInt64 = 3
  }

  init() {
    let size = 128 + 64 * Self.lines
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

  private enum Use {
    static let none: UInt64 = 0
    /// Writers count by locked additions.
    static let locked: UInt64 = 1
    /// Writers count by plain stores, holders make all threads pass a barrier.
    static let asymmetric: UInt64 = 2
  }
  private static let hasBarrier = nvm_barrier_of_all_threads() == 0
  @inline(__always) private var useWord: UInt64 { nvm_load_relaxed(words + 24) }
  /// From here on transactions may come. Called before the tree is shared.
  func use() { nvm_store_release(words + 24, Self.hasBarrier ? Use.asymmetric : Use.locked) }
  @inline(__always) var isRemoved: Bool { nvm_load_relaxed(state) == State.removed }

  // MARK: Writers

  /// Counts a writer in; waits while a transaction holds the tree. Returns what ``leave(_:)`` takes.
  /// - Throws: `.invalidArgument` when the calling thread's own transaction holds it, `.closed` when it was removed.
  @inline(__always) func enter() throws(NVMError) -> UnsafeMutableRawPointer? {
    if useWord == Use.none { return nil }
    let line = lineOfThread
    if count(1, on: line) { return line }
    return try enterSlowly(line)
  }
  @inline(__always) func leave(_ line: UnsafeMutableRawPointer?) {
    if let line { _ = count(0 &- 1, on: line) }
  }

  private var shared: UnsafeMutableRawPointer { words + 128 }
  @inline(__always) private var lineOfThread: UnsafeMutableRawPointer {
    let slot = Int(nvm_thread_slot())
    return useWord == Use.asymmetric && slot < Self.lines ? words + (128 &+ 64 &* slot) : shared
  }
  /// Adds to a line, then looks whether the gate is open.
  @inline(__always) private func count(_ n: UInt64, on line: UnsafeMutableRawPointer) -> Bool {
    if line != shared {
      nvm_store_release(line, nvm_load_relaxed(line) &+ n)
      // The processor's half of the barrier is the holder's.
      nvm_compiler_fence()
    } else {
      _ = nvm_fetch_add_seqcst(line, n)
    }
    return nvm_load_seqcst(state) == State.open
  }

  @inline(never)
  private func enterSlowly(_ line: UnsafeMutableRawPointer) throws(NVMError) -> UnsafeMutableRawPointer? {
    while true {
      _ = count(0 &- 1, on: line)
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
      if count(1, on: line) { return line }
    }
  }

  /// Sleeps until the holder has left.
  private func waitOpen() throws(NVMError) {
    if isRemoved { throw removedError() }
    pthread_mutex_lock(mutex)
    pthread_mutex_unlock(mutex)
    if isRemoved { throw removedError() }
  }

  func removedError() -> NVMError {
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
  /// - Throws: `.closed` when the tree was removed, `.outOfMemory` when the kernel lacks it for the barrier.
  func hold() throws(NVMError) {
    if isRemoved { throw removedError() }
    pthread_mutex_lock(mutex)
    if isRemoved {
      pthread_mutex_unlock(mutex)
      throw removedError()
    }
    nvm_store_release(holder, Self.thisThread)
    nvm_store_seqcst(state, State.held)
    guard useWord != Use.asymmetric || nvm_barrier_of_all_threads() == 0 else {
      release()
      throw NVMError(
        code: .outOfMemory, message: "The kernel cannot make all threads wait for a transaction. Try again.")
    }
    for i in 0..<Self.lines {
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
