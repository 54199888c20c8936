import CNVM
import Glibc
public import NVMRegion

extension PersistentHeap {
  /// What the header of a live block says. O(1).
  /// - Throws: `.foreignOffset`, `.doubleFree` when the block is free, `.corrupt`.
  public func info(of payload: Offset) throws(NVMError) -> BlockInfo {
    try checkUsable()
    let unit = Int(truncatingIfNeeded: payload.rawValue >> UInt64(unitShift))
    guard unit >= 0, unit < unitCount else { throw notLive(payload) }
    if let slab = slab(ofUnit: unit) {
      if !slab.isScanned { scanNow(slab) }
      let i = slab.index(of: payload.rawValue)
      guard i < slab.pointee.blockCount, slab.isAllocated(i), case .live(let info) = read(slab, i),
        info.payload == payload
      else { throw notLive(payload) }
      return info
    }
    let word = map.word(unit)
    guard UnitMap.tag(word) == UnitMap.Tag.object, payload.rawValue == start(ofUnit: unit) else {
      throw notLive(payload)
    }
    gate.enter()
    defer { gate.leave() }
    switch objectReading(unit, word) {
    case .live(let info): return info
    // Another call has taken it meanwhile.
    case .vacant: throw notLive(payload)
    case .damaged: throw corrupt("The header of a large block was overwritten.", at: payload.rawValue)
    }
  }

  /// Bytes that a live block has room for, at least what was asked for. O(1).
  public func usableSize(of payload: Offset) throws(NVMError) -> Int { try info(of: payload).capacity }

  enum BlockReading {
    case vacant
    case live(BlockInfo)
    case damaged
  }

  /// Reads a block's header beside writers: word 0 is read again where the two words do not go together, and while a call
  /// is under way that changes both; its thread may have lost the processor just then.
  func read(_ slab: UnsafeMutablePointer<Slab>, _ index: Int) -> BlockReading {
    let block = slab.offset(index)
    let at = Offset(rawValue: block)
    let bytes = slab.pointee.blockBytes
    let free = check.freeBlock(lines: bytes >> 6, at: block, generation: slab.pointee.generation)
    for attempt in 0..<150 {
      let isResting = nvm_load_acquire(control + Control.resizes) == 0
      let word0 = region.load(at)
      if word0 == free { return .vacant }
      let word1 = region.load(at + 8)
      if isAllocated(word0, word1, block, slab) {
        let distance = 1 << BlockHeader.shift(word0)
        let capacity = bytes - distance
        // Even a header that verifies is not believed blindly.
        guard distance >= BlockHeader.size, BlockHeader.slack(word0, word1) <= capacity else {
          return .damaged
        }
        return .live(
          BlockInfo(
            payload: at + distance, capacity: capacity, length: capacity - BlockHeader.slack(word0, word1),
            tag: BlockHeader.tag(word1), owner: BlockHeader.owner(word1), epoch: BlockHeader.epoch(word1),
            isLarge: false))
      }
      // Changed meanwhile, or in the hands of a call that changes both words: again.
      if attempt > 2, region.load(at) == word0, isResting, nvm_load_acquire(control + Control.resizes) == 0 {
        break
      }
      if attempt > 50 { usleep(1000) } else if attempt > 10 { sched_yield() }
    }
    return .damaged
  }

  /// Reads the header of an object beside threads that free it and use its extent again. With the gate or the extent lock.
  /// - Parameter word: of the unit map, where the head was found.
  private func objectReading(_ unit: Int, _ word: UInt64) -> BlockReading {
    for _ in 0..<8 {
      if let info = readObject(unit, UnitMap.length(word)) { return .live(info) }
      // Taken meanwhile, or for a while only.
      guard UnitMap.tag(word) == UnitMap.Tag.object, map.word(unit) == word else { return .vacant }
    }
    return .damaged
  }

  /// The header of an object. With the gate or the extent lock.
  func readObject(_ unit: Int, _ length: Int) -> BlockInfo? {
    for _ in 0..<1000 {
      let at = entry(unit)
      let word0 = region.load(at)
      let word1 = region.load(at + 8)
      let word2 = region.load(at + 16)
      if check.isValidExtent(word0, at: start(ofUnit: unit), word1, word2),
        ExtentEntry.kind(word0) == .object,
        ExtentEntry.length(word0) == length
      {
        return BlockInfo(
          payload: Offset(rawValue: start(ofUnit: unit)), capacity: length << unitShift,
          length: Int(truncatingIfNeeded: word2),
          tag: BlockHeader.tag(word1), owner: BlockHeader.owner(word1), epoch: BlockHeader.epoch(word1),
          isLarge: true)
      }
      let isAtRest =
        map.word(unit) == UInt64(length) << 3 | UnitMap.Tag.object && region.load(at) == word0
      if isAtRest || word0 == freeWord(unit, length) { return nil }
      sched_yield()
    }
    return nil
  }

  /// Calls `body` with every live block, in the order of offsets, or with those of a tag and an owner.
  ///
  /// May run beside allocation and freeing, and `body` may do either: a block that lives throughout is seen
  /// exactly once, others at most once. Damaged headers are passed over; if there were any, the enumeration
  /// ends by throwing `.corrupt`, after all other blocks were seen.
  ///
  /// - Parameter includingSmall: `false` looks at large blocks only, which touches nothing but the extent
  ///   table.
  /// - Complexity: O(extents + blocks of slabs).
  public func forEachBlock(
    tag: BlockTag? = nil, owner: OwnerToken? = nil, includingSmall: Bool = true,
    _ body: (BlockInfo) throws(NVMError) -> Void
  ) throws(NVMError) {
    try checkUsable()
    if includingSmall { adoptAll() }
    var damage: UInt64?
    var unit = 0
    var found: [BlockInfo] = []
    let end = unitCount
    while unit < end {
      var slab: UnsafeMutablePointer<Slab>?
      // A stretch of the map at a time, under the lock that its heads change under.
      extents.withLock { space in
        var budget = 1024
        while unit < end, budget > 0, slab == nil {
          budget -= 1
          let word = map.word(unit)
          if let s = UnitMap.slab(word) {
            slab = s
            unit = s.pointee.firstUnit + s.pointee.unitCount
            continue
          }
          let tag = UnitMap.tag(word)
          if tag == UnitMap.Tag.object || tag == UnitMap.Tag.objectHeld {
            let length = UnitMap.length(word)
            // A held one lives until its free is committed.
            switch objectReading(unit, word) {
            case .live(let info): found.append(info)
            case .damaged: damage = damage ?? start(ofUnit: unit)
            case .vacant: break
            }
            unit += max(length, 1)
          } else {
            unit += max(UnitMap.length(word), 1)
          }
        }
      }
      for info in found where (tag ?? info.tag) == info.tag && (owner ?? info.owner) == info.owner {
        try body(info)
      }
      found.removeAll(keepingCapacity: true)
      if includingSmall, let slab {
        try forEachBlock(of: slab, before: unit, tag, owner, &damage, body)
      }
    }
    if let damage {
      throw corrupt("At least one block header is damaged; all other blocks were enumerated.", at: damage)
    }
  }

  private func forEachBlock(
    of slab: UnsafeMutablePointer<Slab>, before end: Int, _ tag: BlockTag?, _ owner: OwnerToken?,
    _ damage: inout UInt64?, _ body: (BlockInfo) throws(NVMError) -> Void
  ) throws(NVMError) {
    var next = 0
    var batch: [BlockInfo] = []
    while true {
      guard let home = lockHome(of: slab) else { return }
      // Given back, and perhaps used for another slab, meanwhile: then nothing in it lived throughout.
      let isSame = slab.pointee.isInUse && slab.pointee.firstUnit + slab.pointee.unitCount == end
      if isSame, next == 0, !slab.isScanned { scan(home, slab) }
      let limit = isSame ? min(slab.pointee.mark, next + Self.batch) : 0
      if isSame, next == 0, slab.pointee.damaged > 0 { damage = damage ?? slab.pointee.base }
      while next < limit {
        // The header decides, not the bit: a block whose free is not yet committed lives.
        switch read(slab, next) {
        case .live(let info): batch.append(info)
        case .vacant: break
        case .damaged: if !slab.pointee.isSetAside { damage = damage ?? slab.offset(next) }
        }
        next += 1
      }
      lock(of: home).unlock()
      if batch.isEmpty, limit == 0 || next >= slab.pointee.mark { return }
      for info in batch where (tag ?? info.tag) == info.tag && (owner ?? info.owner) == info.owner {
        try body(info)
      }
      batch.removeAll(keepingCapacity: true)
    }
  }
}
