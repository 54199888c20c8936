import CNVM
import Glibc

// A checkpoint brings what is durable home and moves the journal's start. It reads the journal, never the mapping:
// copying live pages would write home stores that no journal covers.
//
//     start                durable
//     | batches ……………………… |                 read, brought together by page
//     pages: read from the file, changed, written          a crash leaves them old, new or torn: replay mends them
//     sync
//     header, copy after copy: start := durable            <- the step; the space before it is free from here on
//
// By the medium's thread, or by whoever finds the ring full. The thread starts when it is first needed.
extension JournaledFileMedium {
  /// With the mutex: how long a writer waits when the ring fills faster than it empties, in microseconds.
  private var throttle: UInt64 {
    guard tail.pointee.isCheckpointing || tail.pointee.isCheckpointWanted else { return 0 }
    let used = Int(tail.pointee.ticket &- tail.pointee.header.start)
    let over = used - area.ringSize * 3 / 4
    return over <= 0 ? 0 : UInt64(min(5000, over * 20_000 / area.ringSize))
  }

  /// With the mutex: gets one going where none is.
  func wantCheckpoint() {
    guard !tail.pointee.isCheckpointWanted, !tail.pointee.isCheckpointing, tail.pointee.failure == nil,
      !tail.pointee.isClosed
    else { return }
    if options.checkpointsInBackground, thread == nil, !tail.pointee.isStopping { startThread() }
    tail.pointee.isCheckpointWanted = true
    if thread != nil {
      pthread_cond_signal(work)
    } else if !tail.pointee.isStopping {
      checkpoint()
    }
  }

  /// With the mutex: waits for room in the ring.
  func requestCheckpoint() {
    wantCheckpoint()
    if tail.pointee.isCheckpointing || tail.pointee.isCheckpointWanted { wait() }
  }

  // A writer that found the ring full while it holds a lock would keep readers from a leaf for as long as a checkpoint
  // takes. So it waits before its first lock, from the point on where what is under way may still go in: a batch, and
  // an eighth of the ring.

  /// With the mutex: writers see whether they are to wait: for room, or for memory where too many pages are private
  /// and a checkpoint would let some go.
  func noteFilling() {
    let t = tail
    let used = Int(truncatingIfNeeded: t.pointee.ticket &- t.pointee.header.start)
    let isFull = used > area.ringSize - area.ringSize / 8 - batchLimit
    let isHeavy = t.pointee.header.start < t.pointee.durable && privatePages?.isFarOverLimit == true
    nvm_store_release(words + 16, isFull || isHeavy ? 1 : 0)
    let delay = throttle
    if nvm_load_relaxed(words + 32) != delay { nvm_store_relaxed(words + 32, delay) }
  }

  /// Before the first lock of a change: returns when there is room in the ring for what a change appends, or nothing
  /// is written any more. In an atomic section at once: that one holds locks, and a checkpoint would wait for it.
  @inline(__always)
  package func admit() {
    if nvm_load_relaxed(words + 16) != 0 { waitForRoom() }
  }

  @inline(never)
  private func waitForRoom() {
    guard nvm_load_relaxed(slot + 24) == 0 else { return }
    lock()
    while nvm_load_relaxed(words + 16) != 0, tail.pointee.header.start < tail.pointee.durable,
      tail.pointee.failure == nil, !tail.pointee.isClosed
    {
      requestCheckpoint()
    }
    unlock()
  }

  func startThread() {
    var thread = pthread_t()
    // Signals are for the application's own threads.
    var all = sigset_t()
    var old = sigset_t()
    sigfillset(&all)
    pthread_sigmask(SIG_SETMASK, &all, &old)
    let argument = Unmanaged.passRetained(self)
    let result = pthread_create(
      &thread, nil,
      { raw in
        Unmanaged<JournaledFileMedium>.fromOpaque(raw!).takeRetainedValue().serve()
        return nil
      }, argument.toOpaque())
    pthread_sigmask(SIG_SETMASK, &old, nil)
    if result == 0 { self.thread = thread } else { argument.release() }
  }

  private func serve() {
    lock()
    while !tail.pointee.isStopping {
      if tail.pointee.isCheckpointWanted {
        checkpoint()
      } else if let window = privatePages?.wishes.open.popLast() {
        enlarge(window)
      } else {
        pthread_cond_wait(work, mutex)
      }
    }
    unlock()
  }

  /// Brings home what is durable now. With the mutex at both ends and without it meanwhile.
  /// - Parameter isLast: that of ``close(isClean:)``, behind which nothing is appended.
  func checkpoint(isLast: Bool = false) {
    let t = tail
    while t.pointee.isCheckpointing || t.pointee.isEnlarging { wait() }
    defer {
      t.pointee.isCheckpointWanted = false
      wakeAll()
    }
    let to = t.pointee.durable
    guard to != t.pointee.header.start, t.pointee.failure == nil, isLast || !t.pointee.isClosed else {
      return
    }
    t.pointee.isCheckpointing = true
    var header = t.pointee.header
    unlock()
    var failure: NVMError?
    do throws(NVMError) {
      try bringHome(&header, to: to)
    } catch {
      failure = error
    }
    if failure == nil {
      privatePages?.giveBack(base, size: Int(nvm_load_acquire(size)), home: to, file: area.file) { body in
        lock()
        body()
        unlock()
      }
    }
    lock()
    t.pointee.isCheckpointing = false
    if let failure { return fail(failure) }
    t.pointee.header = header
    t.pointee.checkpoints += 1
    noteFilling()
  }

  /// Brings home everything that is durable now.
  package func checkpointNow() throws(NVMError) {
    lock()
    checkpoint()
    let failure = tail.pointee.failure
    unlock()
    if let failure { throw failure }
  }

  private func bringHome(_ header: inout JournalHeader, to: UInt64) throws(NVMError) {
    var pages = JournalPages()
    defer { pages.deallocate() }
    let reader = JournalReader(area, header, limit: to)
    let file = area.file
    while let records = try reader.next() {
      if !pages.isEmpty, !pages.hasRoom(for: records.count) { try write(&pages) }
      guard pages.add(records, allowed: area.growingWords) else { break }
    }
    guard reader.position == to else {
      throw NVMError(
        code: .ioFailure,
        message:
          "The journal does not read as it was written, so the disk cannot be trusted. Close the file, see to "
          + "the disk and open it again.", path: area.path, offset: UInt64(area.offset))
    }
    try write(&pages)
    let result = file.sync()
    if result < 0 { throw area.error("Bringing changes home", result) }
    header.start = to
    header.check = reader.chain
    try area.write(&header)
  }

  private func write(_ pages: inout JournalPages) throws(NVMError) {
    let file = area.file
    let isPatient = options.checkpointsInBackground
    var written = 0
    let result = pages.writeHome(to: file) { offset, count in
      file.startWriting(at: offset, count: count)
      // A breath for the writers' own syncs.
      written += count
      if isPatient, written >= 1 << 20 {
        written = 0
        usleep(500)
      }
    }
    if result < 0 { throw area.error("Bringing changes home", result) }
  }

  // MARK: Close

  /// Ends the medium's work. With `isClean` everything that was appended before the call, or was told durable since, is
  /// home on return, and the journal empty. What is appended meanwhile reaches nothing, and who waits for it is told.
  package func close(isClean: Bool) throws(NVMError) {
    guard !isForked else { return }
    let t = tail
    lock()
    let position = t.pointee.ticketIfAny
    unlock()
    // A failure is told at the end, when everything has ended.
    if isClean { try? waitDurable(position) }
    lock()
    t.pointee.isStopping = true
    pthread_cond_broadcast(work)
    unlock()
    if let thread {
      pthread_join(thread, nil)
      self.thread = nil
    }
    lock()
    // No further batch before the last checkpoint begins: nobody reads the journal of a file that was closed properly, so
    // one that became durable beside it would be lost.
    t.pointee.isClosed = true
    wakeAll()
    wakeSleepers()
    while t.pointee.isLed || t.pointee.isCheckpointing || t.pointee.isEnlarging { wait() }
    if isClean, t.pointee.failure == nil { checkpoint(isLast: true) }
    let failure = t.pointee.failure
    unlock()
    if isClean, let failure { throw failure }
  }
}

extension JournalTail {
  /// The ticket of the last append, or the durable position where the open batch is empty.
  var ticketIfAny: UInt64 { isEmpty ? base : ticket }
}
