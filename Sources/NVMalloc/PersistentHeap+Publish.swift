import CNVM
public import NVMRegion

/// What one atomic step is to change; handed to the body of ``PersistentHeap/publish(_:)``.
///
/// Nothing of it happens before the body has returned; when the body throws, none of it.
public struct Publication {
  let heap: PersistentHeap
  var reservations: [Reservation] = []
  var claims: [PersistentHeap.Claim] = []
  var words: [LogWord] = []
  /// Where a word stands in `words`, once there are many.
  var places: [UInt64: Int] = [:]

  /// Sets space aside that becomes a block with this step. Write its bytes through the region's primitives
  /// and flush them (`writeFlushed`, or `write` and `flush`) before the body returns; the step orders them.
  public mutating func reserve(
    byteCount: Int, alignment: Int = 16, tag: BlockTag = .none, owner: OwnerToken = .none
  ) throws(NVMError) -> Offset {
    let reservation = try heap.reserve(byteCount: byteCount, alignment: alignment, tag: tag, owner: owner)
    reservations.append(reservation)
    return reservation.payload
  }

  /// Turns a reservation made before into a block with this step. When the step fails the reservation is
  /// cancelled.
  public mutating func use(_ reservation: Reservation) { reservations.append(reservation) }

  /// Frees a block with this step.
  /// - Throws: `.doubleFree`, `.foreignOffset`, `.corrupt`, as ``PersistentHeap/deallocate(_:durability:)``.
  public mutating func deallocate(_ payload: Offset) throws(NVMError) {
    claims.append(try heap.claim(payload))
  }

  /// Sets an aligned word with this step. The last value for a word counts.
  ///
  /// The word must be one that only the caller changes until `publish` returns.
  /// - Throws: `.invalidArgument` where the word is misaligned or outside the region's payload.
  public mutating func set(_ value: UInt64, at offset: Offset) throws(NVMError) {
    try heap.checkLink(offset)
    let word = LogWord(offset: offset.rawValue, value: value)
    if places.isEmpty, words.count >= 16 {
      for (i, word) in words.enumerated() { places[word.offset] = i }
    }
    let known = places.isEmpty ? words.firstIndex { $0.offset == word.offset } : places[word.offset]
    if let known {
      words[known] = word
    } else {
      if !places.isEmpty { places[word.offset] = words.count }
      words.append(word)
    }
  }
}

extension PersistentHeap {
  /// Sets space aside in memory: no fence, nothing on the medium that a crash would have to undo. (Large
  /// space is cut out of the free space with ordered stores.) It becomes a block through
  /// ``Publication/use(_:)``.
  /// - Throws: as ``allocate(byteCount:alignment:tag:owner:durability:)``.
  public func reserve(
    byteCount: Int, alignment: Int = 16, tag: BlockTag = .none, owner: OwnerToken = .none
  ) throws(NVMError) -> Reservation {
    try checkWritable()
    let prefix = try prefix(byteCount, alignment, owner)
    guard let index = classIndex(byteCount, prefix: prefix),
      let (slab, i) = try takeBlock(index, byteCount, prefix: prefix)
    else {
      let shape = try objectShape(byteCount, alignment)
      let spare =
        shape.alignment > 1 ? nil : takeSpare(shape.count, slack: shape.count / Self.slackShare, use: nil)
      let unit =
        if let spare { spare.unit } else { try acquireExtent(shape.count, alignment: shape.alignment) }
      return Reservation(
        payload: Offset(rawValue: start(ofUnit: unit)), length: byteCount,
        capacity: (spare?.length ?? shape.count) << unitShift,
        place: BlockPlace(slab: nil, index: unit),
        word1: BlockHeader.word1(tag: tag, owner: owner, epoch: epoch, slack: 0), low: 0)
    }
    let blockBytes = slab.pointee.blockBytes
    let slack = blockBytes &- prefix &- byteCount
    return Reservation(
      payload: Offset(rawValue: slab.offset(i)) + prefix, length: byteCount, capacity: blockBytes &- prefix,
      place: BlockPlace(slab: slab, index: i),
      word1: BlockHeader.word1(tag: tag, owner: owner, epoch: epoch, slack: slack),
      low: BlockHeader.allocatedLow(
        lines: blockBytes &>> 6, shift: prefix.trailingZeroBitCount, slack: slack))
  }

  /// Gives a reservation back. Its space rests like a freed block's, since it may have been written.
  public func cancel(_ reservation: Reservation) {
    if let slab = reservation.place.slab {
      // The header still says free. Giving back empty slabs may fail with the disk: then the region is
      // poisoned and says so at its next use.
      if let empty = retire(slab, reservation.place.index) { try? releaseSlabs(empty) }
    } else {
      restExtent(reservation.place.index, reservation.capacity >> unitShift)
    }
  }

  /// Carries out any number of allocations, frees and word changes as one atomic step: after a crash all of
  /// it has happened or none. Durable on return.
  ///
  ///     body; headers' word 1, flush, order
  ///     record in a lane, flush, fence                = done
  ///     words stored, flush, order;  record retired, flush, order
  ///
  /// One single change takes one order and one fence; several take three orders and one fence; each an order less where
  /// nothing was flushed before.
  ///
  /// - Parameter body: says what is to happen. It may use the heap otherwise too, and publish, independently
  ///   of this step. When it throws, everything is as before.
  /// - Throws: what `body` throws, `.outOfSpace` for very large steps, `.ioFailure`: then it is not known
  ///   whether the step happened until the region is opened again.
  /// - Complexity: O(changes).
  public func publish(_ body: (inout Publication) throws(NVMError) -> Void) throws(NVMError) {
    try checkWritable()
    var publication = Publication(heap: self)
    do throws(NVMError) {
      try body(&publication)
      try checkWritable()
    } catch {
      cancel(publication)
      throw error
    }
    try commit(publication)
  }

  private func cancel(_ publication: Publication) {
    for reservation in publication.reservations { cancel(reservation) }
    for claim in publication.claims { unclaim(claim) }
  }

  private func commit(_ publication: Publication) throws(NVMError) {
    let count = publication.words.count + publication.reservations.count + publication.claims.count
    if count == 0 { return try region.fence() }
    // Space for a record that no lane can hold comes first, while nothing else is held.
    var overflow: (unit: Int, count: Int)?
    if count > log.capacity {
      do throws(NVMError) {
        overflow = try acquireOverflow(count)
      } catch {
        cancel(publication)
        throw error
      }
    }
    let needsGate =
      publication.reservations.contains { $0.place.slab == nil }
      || publication.claims.contains { $0.place.slab == nil }
    if needsGate { gate.enter() }
    do throws(NVMError) {
      defer { if needsGate { gate.leave() } }
      var words = publication.words
      words.reserveCapacity(count)
      for reservation in publication.reservations { words.append(prepare(reservation)) }
      for claim in publication.claims { words.append(freeing(claim)) }
      let place = overflow.map { Offset(rawValue: start(ofUnit: $0.unit)) }
      if let place {
        words.withUnsafeBytes { region.writeFlushed($0, at: place) }
      }
      try words.withUnsafeBufferPointer { (words) throws(NVMError) in
        try log.commit(words, outOfLine: place)
      }
    } catch {
      // The disk failed and the region is poisoned: what is held stays held.
      throw error
    }
    for reservation in publication.reservations { finish(reservation) }
    for claim in publication.claims { try retire(claim) }
    if let overflow { try releaseExtent(overflow.unit, overflow.count) }
    try region.acknowledge()
  }

  /// An extent of kind log, so that opening sweeps it. Flushed: the commit orders it ahead of the record.
  private func acquireOverflow(_ words: Int) throws(NVMError) -> (unit: Int, count: Int) {
    let count = units(forBytes: words * MemoryLayout<LogWord>.stride)
    let unit = try acquireExtent(count)
    gate.enter()
    writeEntry(unit, .log, length: count, UInt64(BlockTag.log.rawValue), 0)
    gate.leave()
    map.set(unit, tag: UnitMap.Tag.other, length: count)
    return (unit, count)
  }

  /// Writes what of a reservation's header precedes the commit word, and returns that word.
  func prepare(_ reservation: Reservation) -> LogWord {
    guard let slab = reservation.place.slab else {
      // The head says free and does not cover these words.
      let unit = reservation.place.index
      let at = entry(unit)
      let length = UInt64(reservation.length)
      region.store(reservation.word1, at: at + 8)
      region.store(length, at: at + 16)
      region.store(0, at: at + 24)
      region.store(0, at: at + 32)
      region.flush(at, count: 40)
      return LogWord(
        offset: at.rawValue,
        value: check.extent(
          .object, length: reservation.capacity >> unitShift, at: start(ofUnit: unit), reservation.word1,
          length))
    }
    let word1 = Offset(rawValue: slab.offset(reservation.place.index)) + 8
    region.store(reservation.word1, at: word1)
    region.flush(word1, count: 8)
    return commitWord(reservation)
  }

  /// The commit word of the block that a reservation is to be.
  func commitWord(_ reservation: Reservation) -> LogWord {
    let slab = reservation.place.slab!
    let block = slab.offset(reservation.place.index)
    return LogWord(
      offset: block,
      value: check.block(
        reservation.low, at: block, generation: slab.pointee.generation, word1: reservation.word1))
  }

  func freeing(_ claim: Claim) -> LogWord {
    let at =
      if let slab = claim.place.slab { slab.offset(claim.place.index) } else {
        entry(claim.place.index).rawValue
      }
    return LogWord(offset: at, value: claim.freeWord)
  }

  /// Lets the block of a reservation that is committed be freed.
  func finish(_ reservation: Reservation) {
    if let slab = reservation.place.slab {
      slab.setAllocated(reservation.place.index)
    } else {
      enterObject(reservation.place.index, reservation.capacity >> unitShift, reservation.length)
    }
  }

  /// A word that may be linked to: aligned, inside the payload, behind the heap's own area.
  func checkLink(_ link: Offset) throws(NVMError) {
    guard link.rawValue & 7 == 0, region.contains(link, count: 8), link.rawValue >= heapStart.rawValue else {
      throw NVMError(
        code: .invalidArgument, message: "The word to be changed is misaligned or outside the heap.",
        path: region.path, offset: link.rawValue)
    }
  }
}
