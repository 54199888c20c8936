import CNVM
public import NVMRegion

extension PersistentHeap {
  /// Frees a block. It rests in the quarantine before it is handed out again.
  ///
  /// Whatever refers to the block must be gone durably before: also a deferred free may take hold, and the
  /// block be used again, at any moment from the call on.
  ///
  /// - Parameters:
  ///   - payload: what allocation returned.
  ///   - durability: `.immediate`: on return no crash brings the block back, by one fence. `.deferred`: from
  ///     the calling thread's next fence on.
  /// - Throws: `.doubleFree`, `.foreignOffset` (null, misaligned, inside a block, or never a block),
  ///   `.corrupt` when the header was overwritten: in each case nothing is changed. `.ioFailure`, and as
  ///   ``PersistentRegion/checkWritable()``.
  /// - Complexity: O(1).
  public func deallocate(_ payload: Offset, durability: Durability = .immediate) throws(NVMError) {
    try checkWritable()
    guard let slab = slab(holding: payload) else { return try deallocateObject(payload, durability) }
    let (i, freeWord) = try claim(payload, in: slab)
    // One store commits; a crash before it leaves the block allocated. Who takes the block at once stores to the
    // same line later, so handing it on need not wait for the fence. A locked instruction waits for all stores before it,
    // and behind the flush for the medium, and with it the next operation's misses: so the lock comes first.
    let block = Offset(rawValue: slab.offset(i))
    let share = enter(slab.pointee.classIndex)
    var tally = StoreTally()
    region.store(freeWord, at: block, counting: &tally)
    let empty = retire(slab, i, to: share)
    region.flush(line: block, words: 1, counting: &tally)
    region.count(tally)
    if durability == .immediate { try region.fence() }
    if let empty { try releaseSlabs(empty) }
  }

  @inline(never)
  private func deallocateObject(_ payload: Offset, _ durability: Durability) throws(NVMError) {
    let (unit, word) = try holdObject(payload)
    let length = UnitMap.length(word)
    let tick = now()
    let share = enterObjects()
    let at = entry(unit)
    guard let byteCount = objectBytes(at, unit, length) else {
      lock(of: share).unlock()
      throw damagedObject(unit, word)
    }
    // As of a small block: one store commits, and whoever is handed the extent stores to the same line later.
    var tally = StoreTally()
    region.store(freeWord(unit, length), at: at, counting: &tally)
    share.pointee.countObject(-length, -byteCount, -1)
    share.pointee.rest(unit, length, tick: tick, map)
    lock(of: share).unlock()
    region.flush(line: at, words: 1, counting: &tally)
    region.count(tally)
    if durability == .immediate { try region.fence() }
  }

  /// A block whose header belongs to the caller for now: nobody else can free it.
  struct Claim {
    var place: BlockPlace
    /// Units of a large object.
    var length: Int
    var byteCount: Int
    /// Word 0 of the header once free.
    var freeWord: UInt64
  }

  /// The slab that `payload` lies in, if any.
  @inline(__always)
  func slab(holding payload: Offset) -> UnsafeMutablePointer<Slab>? {
    let unit = Int(truncatingIfNeeded: payload.rawValue &>> UInt64(truncatingIfNeeded: unitShift))
    return unit >= 0 && unit < unitCount ? slab(ofUnit: unit) : nil
  }

  /// Finds the block of `payload`, verifies its header and takes it over.
  func claim(_ payload: Offset) throws(NVMError) -> Claim {
    guard let slab = slab(holding: payload) else { return try claimObject(payload) }
    let (i, freeWord) = try claim(payload, in: slab)
    return Claim(place: BlockPlace(slab: slab, index: i), length: 0, byteCount: 0, freeWord: freeWord)
  }

  /// The same for a slab's block: its index, and word 0 of its header once free.
  @inline(__always)
  func claim(
    _ payload: Offset, in slab: UnsafeMutablePointer<Slab>
  ) throws(NVMError) -> (index: Int, freeWord: UInt64) {
    // The miss overlaps with what the medium still has to do for the last operation.
    nvm_prefetch_write(region.pointer(to: Offset(rawValue: (payload.rawValue &- 1) & ~63)))
    if !slab.isScanned { scanNow(slab) }
    let i = slab.index(of: payload.rawValue)
    guard i < slab.pointee.blockCount else { throw notLive(payload) }
    // The locked instruction waits for the last operation's fence, and all behind it too: so what can be found out comes
    // ahead of it, and the header is only compared again once nobody else may change it. Word 0 vouches for word 1.
    let block = slab.offset(i)
    let word0 = region.load(Offset(rawValue: block))
    let isValid =
      isAllocated(word0, region.load(Offset(rawValue: block &+ 8)), block, slab)
      && payload.rawValue == block &+ (1 &<< UInt64(truncatingIfNeeded: BlockHeader.shift(word0)))
    let free = check.freeBlock(
      lines: slab.pointee.blockBytes &>> 6, at: block, generation: slab.pointee.generation)
    guard isValid, slab.claim(i) else { throw notLive(payload) }
    guard region.load(Offset(rawValue: block)) == word0 else {
      slab.setAllocated(i)
      throw notLive(payload)
    }
    return (i, free)
  }

  /// Gives a claimed block back to its user, unchanged.
  func unclaim(_ claim: Claim) {
    if let slab = claim.place.slab {
      slab.setAllocated(claim.place.index)
    } else {
      map.set(claim.place.index, tag: UnitMap.Tag.object, length: claim.length)
    }
  }

  /// Takes a claimed block that is now free on the medium back into memory.
  func retire(_ claim: Claim) throws(NVMError) {
    guard let slab = claim.place.slab else {
      return restExtent(claim.place.index, claim.length, of: claim.byteCount)
    }
    if let empty = retire(slab, claim.place.index) { try releaseSlabs(empty) }
  }

  @inline(never)
  func scanNow(_ slab: UnsafeMutablePointer<Slab>) {
    guard let home = lockHome(of: slab) else { return }
    defer { lock(of: home).unlock() }
    if slab.pointee.isInUse, !slab.isScanned { scan(home, slab) }
  }

  private func claimObject(_ payload: Offset) throws(NVMError) -> Claim {
    let (unit, word) = try holdObject(payload)
    let length = UnitMap.length(word)
    gate.enter()
    let byteCount = objectBytes(entry(unit), unit, length)
    gate.leave()
    guard let byteCount else { throw damagedObject(unit, word) }
    return Claim(
      place: BlockPlace(slab: nil, index: unit), length: length, byteCount: byteCount,
      freeWord: freeWord(unit, length))
  }

  /// Makes an object the caller's, whose entry is not verified yet. Returns its unit, and that's word as it was.
  @inline(__always)
  private func holdObject(_ payload: Offset) throws(NVMError) -> (unit: Int, word: UInt64) {
    let unit = Int(truncatingIfNeeded: payload.rawValue >> UInt64(unitShift))
    guard unit >= 0, unit < unitCount, payload.rawValue == start(ofUnit: unit) else { throw notLive(payload) }
    // Flushed long ago: a miss, which overlaps with the locked instructions to come.
    nvm_prefetch_write(region.pointer(to: entry(unit)))
    let word = map.word(unit)
    guard UnitMap.tag(word) == UnitMap.Tag.object,
      map.exchange(unit, word, UInt64(UnitMap.length(word)) << 3 | UnitMap.Tag.objectHeld)
    else { throw notLive(payload) }
    return (unit, word)
  }

  /// What an object's entry says of its bytes, if it verifies. With the gate, or the lock of a share of objects.
  @inline(__always)
  private func objectBytes(_ at: Offset, _ unit: Int, _ length: Int) -> Int? {
    let word0 = region.load(at)
    let byteCount = region.load(at + 16)
    guard check.isValidExtent(word0, at: start(ofUnit: unit), region.load(at + 8), byteCount),
      ExtentEntry.kind(word0) == .object, ExtentEntry.length(word0) == length,
      byteCount <= UInt64(length << unitShift)
    else { return nil }
    return Int(byteCount)
  }

  /// Gives an object back that was held.
  @inline(never)
  private func damagedObject(_ unit: Int, _ word: UInt64) -> NVMError {
    map.setWord(unit, word)
    return corrupt(
      "The header of a large block was overwritten; the block was left alone.", at: start(ofUnit: unit))
  }

  /// Says why an offset is not a live block's.
  @inline(never)
  func notLive(_ payload: Offset) -> NVMError {
    let unit = Int(truncatingIfNeeded: payload.rawValue >> UInt64(unitShift))
    func error(_ code: NVMError.Code, _ message: String) -> NVMError {
      NVMError(code: code, message: message, path: region.path, offset: payload.rawValue)
    }
    let free = "The block is free already."
    let foreign = "This is not the start of a block of this heap."
    guard !payload.isNull, unit >= 0, unit < unitCount else { return error(.foreignOffset, foreign) }
    let word = map.word(unit)
    guard let slab = UnitMap.slab(word) else {
      guard payload.rawValue == start(ofUnit: unit) else { return error(.foreignOffset, foreign) }
      switch UnitMap.tag(word) {
      case UnitMap.Tag.objectHeld, UnitMap.Tag.free: return error(.doubleFree, free)
      default: return error(.foreignOffset, foreign)
      }
    }
    let i = slab.index(of: payload.rawValue)
    let distance = payload.rawValue &- slab.offset(i)
    guard i < slab.pointee.blockCount, i < slab.pointee.mark, distance >= 16, distance & (distance &- 1) == 0
    else { return error(.foreignOffset, foreign) }
    let generation = slab.pointee.generation
    // Beside writers: what another call changes at this moment is no damage.
    switch read(slab, i) {
    case .vacant: return error(.doubleFree, free)
    case .live(let info):
      // A block in the hands of another call: of a publication, or of a second free at the same time.
      return payload == info.payload
        ? error(.doubleFree, "The block is being freed by another call.") : error(.foreignOffset, foreign)
    case .damaged:
      // Nor is what stands there now that the slab is none any more.
      guard UnitMap.slab(map.word(unit)) == slab, slab.pointee.generation == generation else {
        return error(.foreignOffset, foreign)
      }
      return error(.corrupt, "The header of a block was overwritten; the block was left alone.")
    }
  }
}
