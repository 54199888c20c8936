import CNVM
import Glibc

/// An ordinary file whose changes reach the disk as a sequential redo journal in the same file.
///
/// The data is mapped privately: the kernel never writes a page of it back. `flush` appends the words, as they are at
/// that moment, to the journal's tail in memory, under one short lock; `order` is free, since the journal has one order;
/// whoever needs durability waits until the tail is written and synced, once for all who wait (group commit). What is
/// durable goes home in checkpoints (JournaledFileMedium+Checkpoint).
///
/// Fault model: a crash leaves exactly a prefix of what was appended, in whole batches. So an atomic step of several
/// words is one piece of a batch, and an atomic section keeps the batch open.
///
/// Locks: the mutex, for memory only; never held across a system call but those on the condition variables.
package final class JournaledFileMedium: RegionMedium, @unchecked Sendable {
  package var journal: JournaledFileMedium? { self }
  package struct Options: Sendable {
    /// Checkpoints in a thread of its own; else by whoever finds the journal half full.
    package var checkpointsInBackground = true
    /// Pages of changed memory from which on they are given back to the system; `nil`: a quarter of the memory that
    /// the process may have.
    package var privatePages: Int?
    /// Whether what is read at random is moved into large pages.
    package var largePages = true
    package init() {}
  }

  let area: JournalArea
  let options: Options
  private let key: UInt64
  private let forkGeneration = nvm_fork_generation()
  /// The most that is appended before it is written, whether somebody waits or not.
  let batchLimit: Int
  // Written once in attach, before the region is visible to any other thread.
  @exclusivity(unchecked) private(set) var base = UnsafeMutableRawPointer(bitPattern: 8)!

  let mutex: UnsafeMutablePointer<pthread_mutex_t>
  /// Something about the tail changed.
  let changed: UnsafeMutablePointer<pthread_cond_t>
  /// There is work for the thread.
  let work: UnsafeMutablePointer<pthread_cond_t>
  let tail: UnsafeMutablePointer<JournalTail>
  /// Word 0: the durable position, word 1: bytes of the region, word 2: whether writers are to wait for room, word 3: the
  /// end of what was appended, word 4: how long a writer waits for a full ring, in microseconds. In the two lines behind
  /// it, what those sleep on who wait for a batch of even and of odd number.
  let words: UnsafeMutableRawPointer
  var size: UnsafeMutableRawPointer { words + 8 }
  /// A line for each thread slot: 0 the ticket of its last append, 8 depth of its deferrals, 16 the batch that it waited
  /// for last, 24 whether it is in an atomic section.
  let slots: UnsafeMutableRawPointer
  @exclusivity(unchecked) var thread: pthread_t?
  let privatePages: PrivatePages?

  /// A medium over a journal whose header, just written, is `header`: nothing stands in it.
  /// - Parameter capacity: bytes that the region may grow to.
  init(_ area: JournalArea, _ header: JournalHeader, capacity: Int, options: Options) {
    self.area = area
    privatePages = PrivatePages(capacity: capacity, limit: options.privatePages)
    self.options = options
    key = BatchHeader.key(area.uuid, header.incarnation)
    batchLimit = min(4 << 20, area.ringSize / 4)
    mutex = .allocate(capacity: 1)
    nvm_make_mutex(mutex)
    changed = .allocate(capacity: 1)
    nvm_make_condition(changed)
    work = .allocate(capacity: 1)
    nvm_make_condition(work)
    tail = .allocate(capacity: 1)
    tail.initialize(to: JournalTail(header))
    words = .allocate(byteCount: 192, alignment: 64)
    words.initializeMemory(as: UInt8.self, repeating: 0, count: 192)
    nvm_store_release(words, header.start)
    nvm_store_release(words + 8, UInt64(area.words.upperBound) * 8)
    let size = Int(NVM_THREAD_SLOTS) * 64
    slots = .allocate(byteCount: size, alignment: 64)
    slots.initializeMemory(as: UInt8.self, repeating: 0, count: size)
  }

  deinit {
    // In a forked child a thread that it does not have may own the mutex.
    if !isForked {
      pthread_mutex_destroy(mutex)
      pthread_cond_destroy(changed)
      pthread_cond_destroy(work)
    }
    mutex.deallocate()
    changed.deallocate()
    work.deallocate()
    tail.pointee.deallocate()
    tail.deinitialize(count: 1)
    tail.deallocate()
    words.deallocate()
    slots.deallocate()
  }

  var isForked: Bool { nvm_fork_generation() != forkGeneration }

  package func attach(base: UnsafeMutableRawPointer, path: String) { self.base = base }

  package func didGrow(to size: Int) {
    nvm_store_release(self.size, UInt64(size))
    area.file.didGrow(to: size)
  }
  /// Pages of memory that the file's own cannot stand for. Approximate while others are at work.
  package var privatePageCount: Int { privatePages?.privateCount ?? 0 }

  /// `nil` in a forked child, where the mutex may belong to a thread that it does not have.
  var statistics: JournalStatistics? {
    guard !isForked else { return nil }
    lock()
    defer { unlock() }
    let t = tail.pointee
    return JournalStatistics(
      capacity: area.ringSize, used: Int(truncatingIfNeeded: t.ticketIfAny &- t.header.start),
      appended: t.ticketIfAny, syncs: t.batch - 1, checkpoints: t.checkpoints,
      privatePages: privatePageCount, largePages: privatePages?.windowCount ?? 0)
  }

  // MARK: The lock

  @inline(__always) func lock() { pthread_mutex_lock(mutex) }
  @inline(__always) func unlock() { pthread_mutex_unlock(mutex) }
  func wait() { pthread_cond_wait(changed, mutex) }
  func wakeAll() { pthread_cond_broadcast(changed) }

  /// With the mutex: nothing is written from here on.
  func fail(_ error: NVMError) {
    if tail.pointee.failure == nil { tail.pointee.failure = error }
    wakeAll()
    wakeSleepers()
  }

  // MARK: Stores

  package func store(_ word: UInt64, at p: UnsafeMutableRawPointer) {
    let token = privatePages?.enter(p - base, 8)
    nvm_store_release(p, word)
    if let token { privatePages?.leave(token) }
  }
  package func storeNontemporal(_ word: UInt64, at p: UnsafeMutableRawPointer) {
    store(word, at: p)
    flush(p, count: 8)
  }
  package func write(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    guard let from = source.baseAddress else { return }
    let token = privatePages?.enter(p - base, source.count)
    p.copyMemory(from: from, byteCount: source.count)
    if let token { privatePages?.leave(token) }
  }
  package func writeNontemporal(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    write(source, at: p)
    flush(p, count: source.count)
  }
  package func fill(_ byte: UInt8, count: Int, at p: UnsafeMutableRawPointer) {
    let token = privatePages?.enter(p - base, count)
    memset(p, Int32(byte), count)
    if let token { privatePages?.leave(token) }
  }

  // MARK: Appending

  @inline(__always)
  var slot: UnsafeMutableRawPointer { slots + Int(nvm_thread_slot()) &* 64 }

  package func flush(_ p: UnsafeMutableRawPointer, count: Int) {
    guard count > 0 else { return }
    var place = (p - base) &>> 3
    var left = (p - base &+ count &+ 7) &>> 3 &- place
    lock()
    while left > 0 {
      let n = min(left, batchLimit &>> 4)
      guard makeRoom(n &* 8 &+ JournalLayout.recordHeader) else { break }
      tail.pointee.append(place, n, from: base + place &* 8)
      privatePages?.note(place, n, tail.pointee.ticket)
      place &+= n
      left &-= n
    }
    noteAppended()
    unlock()
  }

  package func flush(line p: UnsafeMutableRawPointer, words mask: UInt8) {
    let first = (p - base) &>> 3
    lock()
    if makeRoom(64 &+ 4 &* JournalLayout.recordHeader) {
      var rest = UInt32(mask)
      while rest != 0 {
        let i = rest.trailingZeroBitCount
        let n = (~(rest &>> UInt32(i))).trailingZeroBitCount
        tail.pointee.append(first &+ i, n, from: p + i &* 8)
        rest &= ~(((1 &<< UInt32(n)) &- 1) &<< UInt32(i))
      }
      privatePages?.note(first, 8, tail.pointee.ticket)
    }
    noteAppended()
    unlock()
  }

  /// One piece of one batch: after a crash all of the words are there or none.
  func commit(_ words: UnsafeBufferPointer<LogWord>) -> Bool {
    guard words.count <= commitCapacity else { return false }
    let bytes = words.count * (8 + JournalLayout.recordHeader)
    lock()
    if makeRoom(bytes) {
      for word in words {
        let p = base + Int(word.offset)
        store(word.value, at: p)
        tail.pointee.append(Int(word.offset) / 8, 1, from: p)
        privatePages?.note(Int(word.offset) / 8, 1, tail.pointee.ticket)
      }
    }
    noteAppended()
    unlock()
    return true
  }

  /// With the mutex: the calling thread has appended what stands at the end now.
  @inline(__always)
  private func noteAppended() {
    let ticket = tail.pointee.ticket
    nvm_store_relaxed(slot, ticket)
    nvm_store_release(words + 24, ticket)
  }

  package var commitCapacity: Int { batchLimit / (8 + JournalLayout.recordHeader) }

  /// With the mutex: returns with room in the buffer, and for it in the ring. May give the mutex away meanwhile.
  /// False where nothing is written any more.
  @inline(__always)
  private func makeRoom(_ bytes: Int) -> Bool {
    let t = tail
    let count = t.pointee.count &+ bytes
    if count &+ 4096 <= t.pointee.capacity, count <= batchLimit, t.pointee.failure == nil,
      !t.pointee.isClosed,
      hasRing(bytes)
    {
      return true
    }
    return makeRoomSlowly(bytes)
  }

  @inline(__always)
  private func hasRing(_ bytes: Int) -> Bool {
    let used = Int(truncatingIfNeeded: tail.pointee.ticket &- tail.pointee.header.start)
    return used &+ bytes &+ JournalLayout.slack <= area.ringSize
  }

  @inline(never)
  private func makeRoomSlowly(_ bytes: Int) -> Bool {
    let t = tail
    while t.pointee.failure == nil, !t.pointee.isClosed {
      if !hasRing(bytes) {
        if t.pointee.header.start < t.pointee.durable {
          requestCheckpoint()
        } else if t.pointee.isLed, !t.pointee.isSealWanted {
          wait()
        } else if t.pointee.sections == 0, !t.pointee.isEmpty {
          lead()
        } else {
          fail(
            NVMError(
              code: .outOfSpace,
              message: "One atomic step is larger than the journal. Create the file with a larger journal.",
              path: area.path))
        }
      } else if t.pointee.count + bytes > batchLimit, !t.pointee.isEmpty, t.pointee.sections == 0 {
        if t.pointee.isLed { wait() } else { lead() }
      } else {
        t.pointee.grow(bytes)
        return true
      }
    }
    return false
  }

  // MARK: Durability

  package func order() throws(NVMError) {}
  package func fence() throws(NVMError) { try acknowledge() }

  func acknowledge() throws(NVMError) {
    let slot = slot
    if nvm_load_relaxed(slot + 8) != 0 { return }
    try waitDurable(nvm_load_relaxed(slot))
  }

  /// What this thread has appended so far lies before it.
  package var position: UInt64 { nvm_load_relaxed(slot) }

  package func isDurable(_ position: UInt64) -> Bool { nvm_load_acquire(words) >= position }

  /// Where readers look, for as long as the medium lives.
  package var positions: JournalPositions { JournalPositions(words) }

  /// Waits for the position, or puts it to what the thread's deferral waits for in the end.
  func await(_ position: UInt64) throws(NVMError) {
    let slot = slot
    if nvm_load_relaxed(slot + 8) == 0 { return try waitDurable(position) }
    if nvm_load_relaxed(slot) < position { nvm_store_relaxed(slot, position) }
  }

  /// Waits until everything before `position` survives a crash. Whoever comes first writes for all.
  /// - Throws: `.ioFailure`; `.closed` where the medium's work ended before.
  package func waitDurable(_ position: UInt64) throws(NVMError) {
    if nvm_load_acquire(words) >= position { return }
    let t = tail
    lock()
    if position > t.pointee.base { arrive() }
    while t.pointee.durable < position, t.pointee.failure == nil, !t.pointee.isClosed {
      guard let end = t.pointee.isLed ? .max : gathering() else {
        lead()
        continue
      }
      let batch = sleep(until: position, or: end)
      // Who was woken since it is durable needs no lock, which all who were woken would meet at.
      if nvm_load_acquire(words) >= position { return slowDown() }
      lock()
      if end != .max, t.pointee.gathered == batch { t.pointee.gathered = 0 }
    }
    // A late failure is no business of what was durable before.
    let isDurable = t.pointee.durable >= position
    let failure = t.pointee.failure
    unlock()
    if !isDurable { throw failure ?? closedError() }
    slowDown()
  }

  private func closedError() -> NVMError {
    NVMError(
      code: .closed,
      message:
        "The file was closed while a change was under way, which is not in it. Open it again to use it.",
      path: area.path)
  }

  private func slowDown() {
    let delay = nvm_load_relaxed(words + 32)
    if delay > 0 { usleep(UInt32(truncatingIfNeeded: delay)) }
  }

  /// Writes the open batch, with the mutex at both ends and without it meanwhile. Nobody leads.
  func lead() {
    let t = tail
    t.pointee.isLed = true
    var isSealed = false
    if t.pointee.sections > 0 {
      t.pointee.isSealWanted = true
      while t.pointee.sections > 0, t.pointee.failure == nil, !t.pointee.isClosed { wait() }
      t.pointee.isSealWanted = false
    }
    if t.pointee.failure == nil, !t.pointee.isClosed, !t.pointee.isEmpty {
      let batch = t.pointee.seal(key: key, ring: area.ringSize)
      isSealed = true
      let end = t.pointee.base
      var prepared = t.pointee.prepared
      unlock()
      var result: Int32 = 0
      if end > prepared, batch.bytes.count < JournalArea.preparation / 4 {
        (prepared, result) = area.prepare(batch.position)
      }
      let began = Self.now()
      if result == 0 {
        result = area.writeDurably(UnsafeRawBufferPointer(batch.bytes), at: batch.position)
      }
      let time = Self.now() &- began
      lock()
      t.pointee.prepared = prepared
      t.pointee.didSync(took: time, at: began &+ time)
      if result < 0 {
        fail(area.error("Writing to the disk", result))
      } else {
        t.pointee.durable = end
        nvm_store_release(words, end)
      }
    }
    t.pointee.isLed = false
    noteFilling()
    wakeAll()
    wakeSleepers(isSealed: isSealed)
    let waiting = Int(t.pointee.durable &- t.pointee.header.start)
    if waiting > area.ringSize / 2 || waiting > area.ringSize / 16 && privatePages?.isOverLimit == true {
      wantCheckpoint()
    }
  }

  // MARK: Deferral

  package func beginDeferral(isAtomic: Bool) -> Bool {
    let slot = slot
    // The shared slot cannot say whose deferral it is.
    guard nvm_thread_slot() != 0 else { return false }
    nvm_store_relaxed(slot + 8, nvm_load_relaxed(slot + 8) + 1)
    if isAtomic {
      nvm_store_relaxed(slot + 24, 1)
      lock()
      // In a section nobody writes a batch that has become large, so one section after the other could fill the ring.
      while tail.pointee.failure == nil, !tail.pointee.isClosed {
        if tail.pointee.isSealWanted || isBatchLarge && tail.pointee.isLed {
          wait()
        } else if isBatchLarge {
          lead()
        } else {
          break
        }
      }
      tail.pointee.sections += 1
      unlock()
    }
    return true
  }

  /// With the mutex: the open batch is to be written, whether somebody waits or not.
  private var isBatchLarge: Bool { tail.pointee.count > batchLimit }
  /// Whether this thread is in an atomic section.
  package var isInSection: Bool { nvm_load_relaxed(slot + 24) != 0 }

  package func endDeferral(isAtomic: Bool) {
    let slot = slot
    nvm_store_relaxed(slot + 8, nvm_load_relaxed(slot + 8) - 1)
    if isAtomic {
      nvm_store_relaxed(slot + 24, 0)
      lock()
      tail.pointee.sections -= 1
      if tail.pointee.sections == 0 { wakeAll() }
      unlock()
    }
  }

  /// With the mutex: nothing more is written, and what a section has appended never will be.
  package func poison(_ error: NVMError) {
    lock()
    fail(error)
    unlock()
  }

  /// Bytes that one atomic section may append.
  package var sectionLimit: Int { area.ringSize / 2 - batchLimit }

  // MARK: The region's own

  /// The superblocks do not go through the journal, whose place they name.
  package func writeHeader(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(NVMError) -> Bool {
    let result = area.file.writeDurably(bytes, at: offset)
    if result < 0 { throw area.error("Writing the superblock", result) }
    return true
  }
}
