import CNVM
public import NVMRegion

// Allocation and link as one step: the block's header word and the link are the two words of one record.
//
//     header F, link 0      payload and word 1 written, flushed; ordered, or hashed in the record where they are short
//     record {header := U, link := payload}, fence                        = the atomic step
//     header U, link → payload, order                                     record retired, order
//
// Fewer fences than these three there cannot be where links are plain words: one makes the record durable before either
// word changes; one makes both words durable before the record is retired; and one the retirement before anybody else,
// who fences only what it flushed itself, may change a word that a replay would bring back.
extension PersistentHeap {
  /// Allocates a block, initialises it and links it, all or nothing: after a crash the link is 0 and there is
  /// no block, or it leads to the initialised one. Durable on return.
  ///
  /// - Parameters:
  ///   - link: the word to hold the block's offset: a ``PersistentPointer`` field, or a root's
  ///     (``rootLink(named:createIfMissing:)``). It must be 0.
  ///   - initialize: writes the bytes through the region's primitives; flushing is not its business.
  /// - Returns: where the bytes start.
  /// - Throws: `.invalidArgument` where the link is misaligned, outside the heap or taken; what `initialize`
  ///   throws; and as ``allocate(byteCount:alignment:tag:owner:durability:)``. Then nothing has changed.
  ///
  /// Other threads may find the link before the call returns; they must not change the block's bytes until then.
  /// - Complexity: as allocation, two orders and one fence, and the lines of the payload. One order more where the payload
  ///   is longer than 500 bytes or is aligned to more than 16, and where the thread has flushed something (in
  ///   `initialize`, too) that it has not fenced.
  @discardableResult
  public func place(
    byteCount: Int, alignment: Int = 16, tag: BlockTag = .none, owner: OwnerToken = .none, into link: Offset,
    initialize: (Offset) throws(NVMError) -> Void
  ) throws(NVMError) -> Offset {
    try checkWritable()
    try checkLink(link)
    let reservation = try reserve(byteCount: byteCount, alignment: alignment, tag: tag, owner: owner)
    do throws(NVMError) {
      try initialize(reservation.payload)
    } catch {
      cancel(reservation)
      throw error
    }
    let word1 = reservation.payload - 8
    // What else was flushed is to be ordered ahead.
    let isCovered =
      reservation.place.slab != nil && reservation.payload - blockStart(reservation) == BlockHeader.size
      && byteCount + 8 <= LaneLog.Cover.longest && region.isSettled
    if isCovered {
      region.store(reservation.word1, at: word1)
      region.flush(word1, count: byteCount + 8)
      try self.link(reservation, into: link, covering: LaneLog.Cover(offset: word1, count: byteCount + 8))
    } else {
      region.flush(reservation.payload, count: byteCount)
      try self.link(reservation, into: link, covering: nil)
    }
    try region.acknowledge()
    return reservation.payload
  }

  private func blockStart(_ reservation: Reservation) -> Offset {
    Offset(rawValue: reservation.place.slab!.offset(reservation.place.index))
  }

  private func link(
    _ reservation: Reservation, into link: Offset, covering cover: LaneLog.Cover?
  ) throws(NVMError) {
    let lock = linkLock(link)
    lock.lock()
    guard region.load(link) == 0 else {
      lock.unlock()
      cancel(reservation)
      throw NVMError(
        code: .invalidArgument, message: "The link leads to a block already. Remove that first.",
        path: region.path, offset: link.rawValue)
    }
    defer { lock.unlock() }
    let word = LogWord(offset: link.rawValue, value: reservation.payload.rawValue)
    if reservation.place.slab == nil {
      gate.enter()
      defer { gate.leave() }
      try commitPair(prepare(reservation), word)
    } else if let cover {
      try commitPair(commitWord(reservation), word, covering: cover)
    } else {
      try commitPair(prepare(reservation), word)
    }
    // Before another thread can follow the link and remove the block.
    finish(reservation)
  }

  /// Sets a link to 0 and frees the block that it led to, all or nothing. Durable on return.
  ///
  /// - Throws: `.invalidArgument` where the link is misaligned, outside the heap or 0; and as
  ///   ``deallocate(_:durability:)``. Then nothing has changed.
  /// - Complexity: O(1), two orders and one fence; one order more where the thread has flushed something that it has not
  ///   fenced.
  public func remove(from link: Offset) throws(NVMError) {
    try checkWritable()
    try checkLink(link)
    let lock = linkLock(link)
    lock.lock()
    let claim: Claim
    do throws(NVMError) {
      defer { lock.unlock() }
      let payload = Offset(rawValue: region.load(link))
      guard !payload.isNull else {
        throw NVMError(
          code: .invalidArgument, message: "The link leads nowhere: there is nothing to remove.",
          path: region.path, offset: link.rawValue)
      }
      claim = try self.claim(payload)
      let isLarge = claim.place.slab == nil
      if isLarge { gate.enter() }
      defer { if isLarge { gate.leave() } }
      try commitPair(LogWord(offset: link.rawValue, value: 0), freeing(claim))
    } catch {
      throw error
    }
    try retire(claim)
    try region.acknowledge()
  }

  /// Places a value and links it, all or nothing.
  @discardableResult
  public func place<T: BitwiseCopyable>(
    _ value: T, tag: BlockTag = .none, owner: OwnerToken = .none,
    into link: PersistentPointer<PersistentPointer<T>>
  ) throws(NVMError) -> PersistentPointer<T> {
    let offset = try place(
      byteCount: MemoryLayout<T>.size, alignment: MemoryLayout<T>.alignment, tag: tag, owner: owner,
      into: link.offset
    ) { (payload) throws(NVMError) in
      region.write(value, at: PersistentPointer<T>(payload))
    }
    return PersistentPointer(offset)
  }

  /// Unlinks and frees a value, all or nothing.
  public func remove<T: BitwiseCopyable>(from link: PersistentPointer<PersistentPointer<T>>) throws(NVMError)
  {
    try remove(from: link.offset)
  }

  func commitPair(_ a: LogWord, _ b: LogWord, covering cover: LaneLog.Cover? = nil) throws(NVMError) {
    try withUnsafeTemporaryAllocation(of: LogWord.self, capacity: 2) { (buffer) throws(NVMError) in
      buffer.initializeElement(at: 0, to: a)
      buffer.initializeElement(at: 1, to: b)
      try log.commit(UnsafeBufferPointer(buffer), covering: cover)
    }
  }
}
