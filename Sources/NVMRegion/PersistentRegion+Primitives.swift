import CLibpmem
public import CNVM
import Glibc

// The only code that writes to a mapping. Each primitive has the cache-line case inline and hands all
// other media to their `RegionMedium`. Offsets and counts are the caller's responsibility (asserted in
// debug builds); what was read from the medium is checked with `contains` before it comes here.

extension PersistentRegion {
  @inlinable @inline(__always)
  func assertInside(_ offset: Offset, _ count: Int) {
    assert(
      count >= 0 && offset.rawValue <= UInt64(size) && count <= size &- offset.bytes, "outside the region")
  }

  // MARK: Reading

  /// The aligned word at `offset`, with acquire ordering. O(1).
  @inlinable @inline(__always)
  public func load(_ offset: Offset) -> UInt64 {
    assertInside(offset, 8)
    return nvm_load_acquire(pointer(to: offset))
  }

  /// A copy of the value that `pointer` refers to. The value is not atomic.
  @inlinable
  public func load<T>(_ pointer: PersistentPointer<T>) -> T {
    assertInside(pointer.offset, MemoryLayout<T>.size)
    return self.pointer(to: pointer.offset).loadUnaligned(as: T.self)
  }

  // MARK: Storing

  /// Stores one aligned word atomically (release ordering): all of it or nothing survives a crash. Not
  /// durable before flush and fence. O(1).
  @inlinable @inline(__always)
  public func store(_ word: UInt64, at offset: Offset) {
    assertInside(offset, 8)
    assert(offset.rawValue & 7 == 0, "a commit word must be aligned")
    counterTable.add(8, .bytes)
    let p = pointer(to: offset)
    if isMediated { mediatedStore(word, p) } else { nvm_store_release(p, word) }
  }

  /// Stores bytes, in no particular order. Not durable before flush and fence. O(count).
  @inlinable @inline(__always)
  public func write(_ bytes: UnsafeRawBufferPointer, at offset: Offset) {
    assertInside(offset, bytes.count)
    guard let source = bytes.baseAddress else { return }
    counterTable.add(UInt64(truncatingIfNeeded: bytes.count), .bytes)
    let p = pointer(to: offset)
    if isMediated {
      mediatedWrite(bytes, p)
    } else {
      p.copyMemory(from: source, byteCount: bytes.count)
    }
  }

  /// Stores the bytes of a trivial value, padding as it is in memory.
  @inlinable
  public func write<T: BitwiseCopyable>(_ value: T, at pointer: PersistentPointer<T>) {
    withUnsafeBytes(of: value) { write($0, at: pointer.offset) }
  }

  /// Sets `count` bytes to `byte`. Not durable before flush and fence. O(count).
  public func fill(_ offset: Offset, count: Int, with byte: UInt8 = 0) {
    assertInside(offset, count)
    counterTable.add(UInt64(truncatingIfNeeded: count), .bytes)
    if let medium {
      medium.fill(byte, count: count, at: pointer(to: offset))
    } else {
      memset(pointer(to: offset), Int32(byte), count)
    }
  }

  /// Copies within the region; the ranges may not overlap. Not durable before flush and fence. O(count).
  public func copy(from source: Offset, to destination: Offset, count: Int) {
    assertInside(source, count)
    write(UnsafeRawBufferPointer(start: pointer(to: source), count: count), at: destination)
  }

  /// Stores bytes and starts their write-back: as `write` and `flush`, past the cache where that is faster.
  /// Durable at this thread's next `fence`. Not for a line that holds a commit word. O(count).
  public func writeFlushed(_ bytes: UnsafeRawBufferPointer, at offset: Offset) {
    // Below a few lines the cached store wins; measured by libpmem at 256 bytes.
    guard bytes.count >= 256, mode != .autoFlush, let source = bytes.baseAddress else {
      write(bytes, at: offset)
      flush(offset, count: bytes.count)
      return
    }
    assertInside(offset, bytes.count)
    counterTable.add(UInt64(truncatingIfNeeded: bytes.count), .bytes)
    counterTable.add(lines(offset, bytes.count), .lines)
    let p = pointer(to: offset)
    if let medium {
      medium.writeNontemporal(bytes, at: p)
    } else {
      pmem_memcpy(p, source, bytes.count, UInt32(PMEM_F_MEM_NONTEMPORAL | PMEM_F_MEM_NODRAIN))
    }
  }

  /// Makes one aligned word durable: a non-temporal store and a fence, the cheapest persist there is. On
  /// return the word, and whatever this thread flushed before, survives any crash. O(1), one fence.
  @inlinable
  public func storeDurable(_ word: UInt64, at offset: Offset) throws(NVMError) {
    assertInside(offset, 8)
    assert(offset.rawValue & 7 == 0, "a commit word must be aligned")
    counterTable.add(8, .bytes)
    counterTable.add(1, .lines)
    let p = pointer(to: offset)
    switch mode {
    case .cacheLine: nvm_store_nontemporal(p, word)
    case .autoFlush: nvm_store_release(p, word)
    case .mediated, .journaled: mediatedStoreNontemporal(word, p)
    }
    try fence()
  }

  // MARK: Durability

  @inlinable @inline(__always)
  func lines(_ offset: Offset, _ count: Int) -> UInt64 {
    count == 0
      ? 0 : ((offset.rawValue &+ UInt64(truncatingIfNeeded: count) &- 1) >> 6) &- (offset.rawValue >> 6) &+ 1
  }

  /// Starts the write-back of the lines of a range. Orders nothing. O(lines).
  @inlinable @inline(__always)
  public func flush(_ offset: Offset, count: Int) {
    assertInside(offset, count)
    counterTable.add(lines(offset, count), .lines)
    switch mode {
    case .cacheLine: nvm_flush_range(pointer(to: offset), count)
    case .autoFlush: break
    case .mediated, .journaled: mediatedFlush(pointer(to: offset), count)
    }
  }

  /// What this thread flushed before reaches the medium no later than what it flushes after. On cache-line
  /// media a store fence; on an in-place file a sync.
  /// - Throws: `.ioFailure` when the disk fails; the region is poisoned from then on. `.closed` and
  ///   `.poisoned`.
  @inlinable @inline(__always)
  public func order() throws(NVMError) {
    switch mode {
    case .mediated: try mediatedOrder()
    case .journaled: break
    default: nvm_store_fence()
    }
    // Counted when it is over: persist groups go by it.
    counterTable.add(1, .orders)
    counterTable.noteSettled()
    if nvm_load_relaxed(control.status) != 0 { throw unusableError() }
  }

  /// On return everything this thread flushed before survives any crash.
  ///
  /// The status is looked at last: a store that met the region already closed is never acknowledged.
  /// - Throws: `.ioFailure` when the disk fails; the region is poisoned from then on. `.closed` and
  ///   `.poisoned`.
  @inlinable @inline(__always)
  public func fence() throws(NVMError) {
    if isMediated { try mediatedFence() } else { nvm_store_fence() }
    counterTable.add(1, .fences)
    counterTable.noteSettled()
    if nvm_load_relaxed(control.status) != 0 { throw unusableError() }
  }

  /// Starts the write-back of some words of one line, given as a mask with bit 0 for the first. Orders nothing. O(1).
  ///
  /// On cache-line media the whole line goes, at the cost of one; a journal takes the words alone.
  @inlinable @inline(__always)
  package func flush(line offset: Offset, words mask: UInt8) {
    assertInside(offset, 64)
    assert(offset.rawValue & 63 == 0, "a line is aligned")
    counterTable.add(1, .lines)
    switch mode {
    case .cacheLine: nvm_flush_line(pointer(to: offset))
    case .autoFlush: break
    case .mediated, .journaled: mediatedFlush(line: pointer(to: offset), mask)
    }
  }

  // As the primitives above, counted together: for changes of a few words, of which counting would be the larger part.

  /// As `store`.
  @inlinable @inline(__always)
  package func store(_ word: UInt64, at offset: Offset, counting tally: inout StoreTally) {
    assertInside(offset, 8)
    assert(offset.rawValue & 7 == 0, "a commit word must be aligned")
    tally.bytes &+= 8
    let p = pointer(to: offset)
    if isMediated { mediatedStore(word, p) } else { nvm_store_release(p, word) }
  }
  /// As `flush(line:words:)`.
  @inlinable @inline(__always)
  package func flush(line offset: Offset, words mask: UInt8, counting tally: inout StoreTally) {
    assertInside(offset, 64)
    assert(offset.rawValue & 63 == 0, "a line is aligned")
    tally.lines &+= 1
    switch mode {
    case .cacheLine: nvm_flush_line(pointer(to: offset))
    case .autoFlush: break
    case .mediated, .journaled: mediatedFlush(line: pointer(to: offset), mask)
    }
  }
  /// Adds what was tallied to the counters.
  @inlinable @inline(__always)
  package func count(_ tally: StoreTally) { counterTable.add(tally) }
  /// `count` and `settle`.
  @inlinable @inline(__always)
  package func settle(counting tally: StoreTally) throws(NVMError) {
    guard let row = counterTable.row else {
      count(tally)
      return try settle()
    }
    counterTable.add(tally, to: row)
    switch mode {
    case .mediated: try mediatedFence()
    case .journaled: break
    default: nvm_store_fence()
    }
    // When it is over: persist groups go by it.
    counterTable.noteFence(in: row)
    if nvm_load_relaxed(control.status) != 0 { throw unusableError() }
  }

  /// A fence for what other threads go on from: whatever any thread flushes later reaches the medium no earlier than
  /// what this thread flushed before. Counts as a fence. Followed by ``acknowledge()`` it is one.
  ///
  /// Where the order of the medium is that of the flushes, on the journal, it waits for nothing, so it may be called
  /// with locks held; elsewhere it is a fence.
  @inlinable @inline(__always)
  package func settle() throws(NVMError) {
    switch mode {
    case .mediated: try mediatedFence()
    case .journaled: break
    default: nvm_store_fence()
    }
    // Counted when it is over: persist groups go by it.
    counterTable.add(1, .fences)
    counterTable.noteSettled()
    if nvm_load_relaxed(control.status) != 0 { throw unusableError() }
  }

  /// Whether an ``order()`` would have nothing to order: this thread has flushed nothing since its last fence or order.
  /// `false` also where that is not known.
  package var isSettled: Bool { counterTable.isSettled }

  /// Stores words and starts their write-back as one atomic step, where the medium has such steps: after a crash all
  /// of them are there or none, and never before what this thread flushed before. False: nothing was done.
  package func commit(_ words: UnsafeBufferPointer<LogWord>) -> Bool {
    guard pages == nil, let journal, journal.commit(words) else { return false }
    counterTable.add(UInt64(words.count) * 8, .bytes)
    counterTable.add(UInt64(words.count), .lines)
    return true
  }

  /// How many words ``commit(_:)`` takes; 0 where there is no such step.
  /// With protection its stores would have to be announced: the callers' own log does that.
  package var commitCapacity: Int { pages == nil ? journal?.commitCapacity ?? 0 : 0 }

  /// On return what this thread settled survives any crash. With no lock held: on the journal it waits for the disk,
  /// elsewhere for nothing.
  @inlinable @inline(__always)
  package func acknowledge() throws(NVMError) {
    if mode == .journaled { try mediatedAcknowledge() }
  }

  /// `flush` and `fence`. O(lines), one fence.
  @inlinable @inline(__always)
  public func persist(_ offset: Offset, count: Int) throws(NVMError) {
    flush(offset, count: count)
    try fence()
  }

  // MARK: Other media

  @usableFromInline @inline(never)
  func mediatedStore(_ word: UInt64, _ p: UnsafeMutableRawPointer) {
    guard let guarded else { return mediumStore(word, p) }
    nvm_guard_store(guarded, p, word)
  }
  // Apart, so that nothing is saved on the way past them.
  @inline(never) private func mediumStore(_ word: UInt64, _ p: UnsafeMutableRawPointer) {
    medium!.store(word, at: p)
  }
  @inline(never) private func mediumFlush(line p: UnsafeMutableRawPointer, _ mask: UInt8) {
    medium!.flush(line: p, words: mask)
  }
  @inline(never) private func mediumFence() throws(NVMError) {
    try settle { () throws(NVMError) in try medium!.fence() }
  }
  @usableFromInline @inline(never)
  func mediatedStoreNontemporal(_ word: UInt64, _ p: UnsafeMutableRawPointer) {
    guard let guarded else { return medium!.storeNontemporal(word, at: p) }
    nvm_guard_begin(guarded, p, 8)
    nvm_store_nontemporal(p, word)
    nvm_guard_end(guarded)
  }
  @usableFromInline @inline(never)
  func mediatedWrite(_ bytes: UnsafeRawBufferPointer, _ p: UnsafeMutableRawPointer) {
    guard let guarded, bytes.count > 0, let source = bytes.baseAddress else {
      return medium!.write(bytes, at: p)
    }
    nvm_guard_begin(guarded, p, UInt64(truncatingIfNeeded: bytes.count))
    p.copyMemory(from: source, byteCount: bytes.count)
    nvm_guard_end(guarded)
  }
  @usableFromInline @inline(never)
  func mediatedFlush(_ p: UnsafeMutableRawPointer, _ count: Int) {
    if guarded != nil { nvm_flush_range(p, count) } else { medium!.flush(p, count: count) }
  }
  /// Begins a span in which this thread's acknowledgements wait for nothing; ``acknowledge()`` after its end waits for
  /// all of them. Of an *atomic* one everything that the thread flushes meanwhile is one atomic step, as far as
  /// ``deferralCapacity`` goes. Spans nest, atomic ones do not. False, and no span, where the medium has no journal.
  package func beginDeferral(isAtomic: Bool = false) -> Bool {
    journal?.beginDeferral(isAtomic: isAtomic) ?? false
  }
  package func endDeferral(isAtomic: Bool = false) { journal?.endDeferral(isAtomic: isAtomic) }
  /// Whether this thread is in an atomic span.
  package var isInAtomicDeferral: Bool { journal?.isInSection ?? false }
  /// Bytes that an atomic deferral may flush; 0 where there is none.
  package var deferralCapacity: Int { journal?.sectionLimit ?? 0 }

  /// Waits until everything that the journal holds before `position` survives a crash. While this thread defers its
  /// acknowledgements, that waits for the last of them.
  package func awaitDurable(_ position: UInt64) throws(NVMError) {
    guard let journal else { return }
    try settle { () throws(NVMError) in try journal.await(position) }
    if nvm_load_relaxed(control.status) != 0 { throw unusableError() }
  }

  @usableFromInline @inline(never)
  func mediatedFlush(line p: UnsafeMutableRawPointer, _ mask: UInt8) {
    if guarded != nil { nvm_flush_line(p) } else { mediumFlush(line: p, mask) }
  }
  @usableFromInline @inline(never)
  func mediatedAcknowledge() throws(NVMError) {
    defer { pages?.settle() }
    try settle { () throws(NVMError) in try journal!.acknowledge() }
    if nvm_load_relaxed(control.status) != 0 { throw unusableError() }
  }
  @usableFromInline @inline(never)
  func mediatedOrder() throws(NVMError) {
    if let guarded { return fenceLines(guarded) }
    try settle { () throws(NVMError) in try medium!.order() }
  }
  @usableFromInline @inline(never)
  func mediatedFence() throws(NVMError) {
    if let guarded { return fenceLines(guarded) }
    try mediumFence()
  }
  /// Cannot fail; the callers look at the status afterwards.
  @inline(__always)
  private func fenceLines(_ guarded: UnsafeMutablePointer<nvm_guard>) {
    nvm_store_fence()
    nvm_guard_settle(guarded)
  }
  /// A failed sync is sticky: nobody may believe a later one.
  private func settle(_ body: () throws(NVMError) -> Void) throws(NVMError) {
    if nvm_load_relaxed(control.status) != 0 { throw unusableError() }
    do throws(NVMError) {
      try body()
    } catch {
      // Who comes too late has not seen the disk fail.
      if error.code != .closed { poison(error) }
      throw error
    }
  }
}
