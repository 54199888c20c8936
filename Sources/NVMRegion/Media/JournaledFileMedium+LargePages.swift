import CNVM

// Large pages under what is read at random: see PrivatePages+LargePages. By the medium's thread, a window at a time,
// so that a checkpoint never waits for more than one.
extension JournaledFileMedium {
  /// Asks for large pages under ranges of bytes. Only advice, done later in the background. O(windows).
  func useLargePages(_ ranges: [Range<Int>]) {
    guard options.checkpointsInBackground, options.largePages, let privatePages, !isForked else { return }
    let payload = area.words.lowerBound * 8..<Int(nvm_load_acquire(size))
    lock()
    if !tail.pointee.isClosed, !tail.pointee.isStopping, privatePages.wish(for: ranges, within: payload) {
      if thread == nil { startThread() }
      pthread_cond_signal(work)
    }
    unlock()
  }

  /// Whether some were asked for that nobody has looked at yet.
  package var hasOpenWishes: Bool {
    lock()
    defer { unlock() }
    return tail.pointee.isEnlarging || privatePages?.wishes.open.isEmpty == false
  }

  /// By the thread, with the mutex at both ends and without it meanwhile.
  func enlarge(_ window: Int) {
    let t = tail
    while t.pointee.isCheckpointing { wait() }
    guard !t.pointee.isStopping else { return }
    t.pointee.isEnlarging = true
    unlock()
    let isMoved = privatePages?.enlarge(window, base) ?? false
    lock()
    if isMoved { privatePages?.noteWindow(window) }
    t.pointee.isEnlarging = false
    wakeAll()
  }
}
