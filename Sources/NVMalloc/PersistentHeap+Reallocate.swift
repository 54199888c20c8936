import CNVM
public import NVMRegion

extension PersistentHeap {
  /// Changes the size of a block, in place where its space suffices and is not much too large, else by moving
  /// it. Tag, owner and the common part of the bytes stay. Durable on return.
  ///
  /// Atomic: a crash leaves the old block or the new one, never both or neither. Whoever holds the offset
  /// cannot know which: find it again by its owner token, or change the link in the same step with
  /// ``publish(_:)``.
  ///
  /// - Parameter alignment: of the result; a small block keeps its own where that is larger.
  /// - Returns: where the bytes start now.
  /// - Throws: as ``allocate(byteCount:alignment:tag:owner:durability:)`` and ``deallocate(_:durability:)``.
  /// - Complexity: O(bytes copied); three orders and one fence.
  public func reallocate(_ payload: Offset, byteCount: Int, alignment: Int = 16) throws(NVMError) -> Offset {
    try checkWritable()
    _ = try prefix(byteCount, alignment, .none)
    let claim = try claim(payload)
    guard let old = header(of: claim) else {
      unclaim(claim)
      throw corrupt("The header of a block was overwritten; the block was left alone.", at: payload.rawValue)
    }
    var distance = alignment
    if let slab = claim.place.slab { distance = payload - Offset(rawValue: slab.offset(claim.place.index)) }
    let isAligned = payload.rawValue & UInt64(alignment - 1) == 0
    if isAligned, byteCount <= old.capacity, staysInPlace(byteCount, old) {
      defer { unclaim(claim) }
      if byteCount != old.length {
        try resize(claim, old, byteCount)
        try region.acknowledge()
      }
      return payload
    }
    var moved = payload
    var isTaken = false
    do throws(NVMError) {
      try publish { (publication) throws(NVMError) in
        moved = try publication.reserve(
          byteCount: byteCount, alignment: max(alignment, distance), tag: old.tag, owner: old.owner)
        let common = min(byteCount, old.length)
        region.writeFlushed(
          UnsafeRawBufferPointer(start: region.pointer(to: payload), count: common), at: moved)
        publication.claims.append(claim)
        isTaken = true
      }
    } catch {
      if !isTaken { unclaim(claim) }
      throw error
    }
    return moved
  }

  /// The claim has verified the header, and no other call may change it. But a stray write may, and one whose checksum is
  /// right may still say what cannot be.
  private func header(of claim: Claim) -> BlockInfo? {
    if let slab = claim.place.slab {
      guard case .live(let info) = read(slab, claim.place.index) else { return nil }
      return info
    }
    gate.enter()
    defer { gate.leave() }
    guard let info = readObject(claim.place.index, claim.length), (0...info.capacity).contains(info.length)
    else { return nil }
    return info
  }

  private func staysInPlace(_ byteCount: Int, _ old: BlockInfo) -> Bool {
    let units = units(forBytes: byteCount)
    return old.isLarge
      ? classIndex(byteCount, prefix: 16) == nil
        && units + units / Self.slackShare >= old.capacity >> unitShift
      : byteCount * 2 + 128 >= old.capacity
  }

  /// The length stands in a word that the commit word covers, so both change in one record.
  private func resize(_ claim: Claim, _ old: BlockInfo, _ byteCount: Int) throws(NVMError) {
    if let slab = claim.place.slab {
      let block = slab.offset(claim.place.index)
      let slack = old.capacity - byteCount
      let word1 = BlockHeader.word1(tag: old.tag, owner: old.owner, epoch: old.epoch, slack: slack)
      let low = BlockHeader.allocatedLow(
        lines: slab.pointee.blockBytes >> 6, shift: (old.payload.rawValue - block).trailingZeroBitCount,
        slack: slack)
      let word0 = check.block(low, at: block, generation: slab.pointee.generation, word1: word1)
      // Who reads the header meanwhile waits.
      _ = nvm_fetch_add_acqrel(control + Control.resizes, 1)
      defer { _ = nvm_fetch_add_acqrel(control + Control.resizes, UInt64.max) }
      return try commitPair(
        LogWord(offset: block + 8, value: word1), LogWord(offset: block, value: word0))
    }
    let unit = claim.place.index
    let word1 = BlockHeader.word1(tag: old.tag, owner: old.owner, epoch: old.epoch, slack: 0)
    let word0 = check.extent(
      .object, length: claim.length, at: start(ofUnit: unit), word1, UInt64(byteCount))
    do throws(NVMError) {
      gate.enter()
      defer { gate.leave() }
      try commitPair(
        LogWord(offset: (entry(unit) + 16).rawValue, value: UInt64(byteCount)),
        LogWord(offset: entry(unit).rawValue, value: word0))
    } catch {
      throw error
    }
    let share = enterObjects()
    share.pointee.resizeObject(by: byteCount - old.length)
    lock(of: share).unlock()
  }
}
