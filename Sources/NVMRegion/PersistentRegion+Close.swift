import CNVM
import Glibc

extension PersistentRegion {
  /// Closes the region: marks the file as properly closed, releases the lock and the mapping. Idempotent.
  ///
  /// Stores that were never flushed may be lost. Later calls throw `.closed`; so does the `fence` of a thread
  /// that was in the middle of an operation, whose stores then reached nothing. Thread-safe; waits for a growth
  /// under way.
  /// - Throws: `.ioFailure` when the clean mark cannot be written: the file is then as after a crash.
  public func close() throws(NVMError) {
    let forked = UInt64(nvm_fork_generation()) != nvm_load_relaxed(control.forkGeneration)
    let usable = nvm_load_acquire(control.status) == 0 && !forked
    if let failure = close(markClean: usable && !isReadOnly) { throw failure }
  }

  /// Closes without the clean mark, as if the process had ended here: the next opening recovers.
  package func abandon() { close(markClean: false) }

  @discardableResult
  func close(markClean: Bool) -> NVMError? {
    // A forked child may have been born while another thread of its parent held the lock, which is
    // then never released here.
    guard UInt64(nvm_fork_generation()) == nvm_load_relaxed(control.forkGeneration) else {
      return state.withLockIfAvailable { close(&$0, markClean: false) } ?? nil
    }
    return state.withLock { close(&$0, markClean: markClean) }
  }

  private func close(_ state: inout State, markClean: Bool) -> NVMError? {
    guard !state.isClosed else { return nil }
    state.isClosed = true
    var failure: NVMError?
    if markClean, state.failure == nil {
      do throws(NVMError) {
        // What this thread flushed comes before the mark that vouches for it, and so does what any thread changed
        // under a group.
        _ = flushAllGroups()
        try fenceUnderStateLock()
        try medium?.close(isClean: true)
        try updateSuperblock(&state) {
          $0.isClean = true
          $0.isJournalInUse = false
        }
      } catch {
        failure = error
      }
    }
    try? medium?.close(isClean: false)
    nvm_store_release(control.status, nvm_load_acquire(control.status) | Self.closedBit)
    if markClean, state.fd >= 0, let wearCounts {
      // Nothing depends on it: a disk that is full costs this opening's counts.
      wearCounts.snapshot(lines: size / 64).save(beside: place, uuid: uuid)
    }
    medium?.willClose()
    // The addresses stay ours, as empty private memory, so that a late access harms nobody.
    let late = SystemCall.mapOver(baseAddress, size, PROT_READ | PROT_WRITE)
    if late < 0 { _ = SystemCall.mapOver(baseAddress, space.size, PROT_NONE) }
    if state.fd >= 0 { Glibc.close(state.fd) }
    state.fd = -1
    return failure
  }
}
