import CNVM
public import NVMRegion

// Freeing many blocks in one call, some at a time:
//
//     claim each (its header is verified, and it belongs to the caller)  →  store each free word, hand each on
//     →  flush each  →  and behind the last, one fence
//
// A locked instruction waits for all flushes before it, and a fence with all misses behind it: so the claims of a part come
// ahead of its flushes, and the headers of parts to come are asked for meanwhile.
extension PersistentHeap {
  /// Frees many blocks: one fence for all of them, and their headers are fetched side by side.
  ///
  /// Each free takes hold by itself: a crash during the call leaves some of the blocks allocated, whichever. Otherwise as
  /// ``deallocate(_:durability:)``, also in that whatever refers to the blocks must be gone durably before.
  ///
  /// - Parameters:
  ///   - payloads: what allocation returned, in any order.
  ///   - durability: `.immediate`: on return no crash brings any of the blocks back. `.deferred`: from the calling thread's
  ///     next fence on.
  /// - Throws: as ``deallocate(_:durability:)``, for the first that cannot be freed: the error's offset says which. Those
  ///   before it are free then, durably if asked for, and those behind it are left alone.
  /// - Complexity: O(count).
  public func deallocate(
    contentsOf payloads: UnsafeBufferPointer<Offset>, durability: Durability = .immediate
  ) throws(NVMError) {
    try checkWritable()
    if payloads.isEmpty { return }
    let claims: UnsafeMutablePointer<SmallClaim> = .allocate(capacity: Self.freedTogether)
    defer { claims.deallocate() }
    for i in 0..<min(Self.headersAhead, payloads.count) { prefetchHeader(payloads[i]) }
    var failure: NVMError?
    var next = 0
    while next < payloads.count, failure == nil {
      let end = min(next + Self.freedTogether, payloads.count)
      var count = 0
      while next < end, failure == nil {
        if next &+ Self.headersAhead < payloads.count { prefetchHeader(payloads[next &+ Self.headersAhead]) }
        if next &+ Self.bitsAhead < payloads.count { prefetchBits(payloads[next &+ Self.bitsAhead]) }
        do throws(NVMError) {
          if let slab = slab(holding: payloads[next]) {
            let (index, freeWord) = try claim(payloads[next], in: slab)
            let block = Offset(rawValue: slab.offset(index))
            (claims + count).initialize(
              to: SmallClaim(slab: slab, index: index, block: block, freeWord: freeWord))
            count &+= 1
          } else {
            try deallocate(payloads[next], durability: .deferred)
          }
          next &+= 1
        } catch {
          failure = error
        }
      }
      if let empty = retire(UnsafeBufferPointer(start: claims, count: count)) {
        if durability == .immediate { try region.fence() }
        try releaseSlabs(empty)
      }
    }
    if durability == .immediate { try region.fence() }
    if let failure { throw failure }
  }

  /// The same for an array.
  public func deallocate(
    contentsOf payloads: [Offset], durability: Durability = .immediate
  ) throws(NVMError) {
    let failure = payloads.withUnsafeBufferPointer { (all) -> NVMError? in
      do throws(NVMError) {
        try deallocate(contentsOf: all, durability: durability)
        return nil
      } catch { return error }
    }
    if let failure { throw failure }
  }

  /// So many are claimed before they are stored to.
  private static let freedTogether = 32
  /// Headers and allocated bits are asked for so many blocks ahead: as many misses as a processor has at a time.
  private static let headersAhead = 24
  private static let bitsAhead = 8

  /// A block of a slab that is claimed.
  private struct SmallClaim {
    var slab: UnsafeMutablePointer<Slab>
    var index: Int
    /// Where its header lies. Once it is handed on, the slab may be given back and its descriptor be another's.
    var block: Offset
    var freeWord: UInt64
  }

  @inline(__always)
  private func prefetchHeader(_ payload: Offset) {
    // An address that is none does no harm.
    nvm_prefetch_write(region.pointer(to: .null) + Int(truncatingIfNeeded: (payload.rawValue &- 1) & ~63))
  }
  @inline(__always)
  private func prefetchBits(_ payload: Offset) {
    let unit = Int(truncatingIfNeeded: payload.rawValue &>> UInt64(truncatingIfNeeded: unitShift))
    guard unit < unitCount, let slab = UnitMap.slab(map.word(unit)) else { return }
    slab.prefetchBits(slab.index(of: payload.rawValue))
  }

  /// Makes claimed blocks free: stores to their headers, flushes them, takes them back into memory, to rest. Returns slabs
  /// that are to be given back, ``releaseSlabs(_:)``.
  private func retire(_ claims: UnsafeBufferPointer<SmallClaim>) -> UnsafeMutablePointer<Slab>? {
    guard let first = claims.first else { return nil }
    var tally = StoreTally()
    var empty: UnsafeMutablePointer<Slab>?
    var classIndex = first.slab.pointee.classIndex
    var share = enter(classIndex)
    for claim in claims {
      if claim.slab.pointee.classIndex != classIndex {
        lock(of: share).unlock()
        classIndex = claim.slab.pointee.classIndex
        share = enter(classIndex)
      }
      region.store(claim.freeWord, at: claim.block, counting: &tally)
      share.pointee.liveBlocks &-= 1
      if share.pointee.push(claim.slab, claim.index) { empty = chain(stamp(share), empty) }
    }
    lock(of: share).unlock()
    // Who takes one of them at once stores to the same line later, so the flush need not come before.
    for claim in claims { region.flush(line: claim.block, words: 1, counting: &tally) }
    region.count(tally)
    return empty
  }

  /// Two chains of slabs that no class knows any more, as one.
  private func chain(
    _ slabs: UnsafeMutablePointer<Slab>?, _ others: UnsafeMutablePointer<Slab>?
  ) -> UnsafeMutablePointer<Slab>? {
    guard let slabs else { return others }
    var last = slabs
    while let next = last.pointee.nextOfClass { last = next }
    last.pointee.nextOfClass = others
    return slabs
  }
}
