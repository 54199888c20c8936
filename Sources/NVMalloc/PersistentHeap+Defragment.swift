import CNVM
public import NVMRegion

/// What ``PersistentHeap/defragment(pointers:)`` did.
public struct HeapDefragmentation: Sendable, Equatable {
  /// Blocks that now stand elsewhere.
  public var movedBlocks = 0
  public var movedBytes = 0
  /// Slabs that hold none of the given blocks any more; empty ones go back when their blocks have rested.
  public var clearedSlabs = 0
}

// Moving is a publication: copies in unreachable space, then old headers free, new headers allocated and all pointers changed
// in one step.
extension PersistentHeap {
  /// Moves blocks out of sparsely used slabs into others of their class, so that whole slabs fall free, and changes all
  /// pointers to them, all or nothing. Durable on return.
  ///
  /// Moves only what finds room in slabs that stay; large blocks stay where they are. A slab is cleared only where all its
  /// blocks are among those pointed to.
  ///
  /// - Parameter pointers: where the links lie: aligned words that hold the offset of a block, or 0. Several may lead to
  ///   the same block. **All** links to a block that may move must be given, none of them inside of a block that may move
  ///   itself, and nobody may use these blocks or links until the call returns.
  /// - Throws: `.invalidArgument` where a link is misaligned, outside the heap or inside of a block that would move;
  ///   `.foreignOffset`, `.doubleFree` and `.corrupt` where it leads to no live block; `.outOfSpace`, `.ioFailure`. Then
  ///   nothing has changed.
  /// - Complexity: O(pointers log pointers + slabs), and the bytes moved; a step of five orders and fences in all.
  @discardableResult
  public func defragment(pointers: [Offset]) throws(NVMError) -> HeapDefragmentation {
    try checkWritable()
    var links: [UInt64: [Offset]] = [:]
    for pointer in pointers {
      try checkLink(pointer)
      let target = region.load(pointer)
      if target != 0 { links[target, default: []].append(pointer) }
    }
    var bySlab: [UnsafeMutablePointer<Slab>: [BlockInfo]] = [:]
    for target in links.keys {
      let info = try info(of: Offset(rawValue: target))
      guard !info.isLarge, let slab = UnitMap.slab(map.word(Int(target >> UInt64(unitShift)))) else {
        continue
      }
      bySlab[slab, default: []].append(info)
    }
    adoptAll()
    var drained: [UnsafeMutablePointer<Slab>] = []
    for i in 0..<classCount {
      drained += chooseSparse(i, Set(bySlab.keys.filter { $0.pointee.classIndex == i })) {
        bySlab[$0]!.count
      }
    }
    defer { for slab in drained { endDraining(slab) } }
    var result = HeapDefragmentation()
    let moving = Set(drained)
    try publish { (publication) throws(NVMError) in
      for slab in drained.sorted(by: { $0.pointee.base < $1.pointee.base }) {
        var isCleared = true
        for info in bySlab[slab]! {
          let from = links[info.payload.rawValue]!
          for pointer in from {
            if let inside = UnitMap.slab(map.word(Int(pointer.rawValue >> UInt64(unitShift)))),
              moving.contains(inside)
            {
              throw NVMError(
                code: .invalidArgument, message: "A link lies in a block that would move.", path: region.path,
                offset: pointer.rawValue)
            }
          }
          guard try move(info, from, moving, &publication) else {
            isCleared = false
            continue
          }
          result.movedBlocks += 1
          result.movedBytes += info.capacity
        }
        if isCleared { result.clearedSlabs += 1 }
      }
    }
    return result
  }

  /// `false` where there is no room but in slabs that are to be cleared.
  private func move(
    _ info: BlockInfo, _ pointers: [Offset], _ moving: Set<UnsafeMutablePointer<Slab>>,
    _ publication: inout Publication
  ) throws(NVMError) -> Bool {
    let slab = UnitMap.slab(map.word(Int(info.payload.rawValue >> UInt64(unitShift))))!
    let distance = info.payload.rawValue - slab.offset(slab.index(of: info.payload.rawValue))
    // The same shape falls into the same class.
    let reservation = try reserve(
      byteCount: info.length, alignment: Int(distance), tag: info.tag, owner: info.owner)
    guard let place = reservation.place.slab, !moving.contains(place) else {
      cancel(reservation)
      return false
    }
    publication.use(reservation)
    region.writeFlushed(
      UnsafeRawBufferPointer(start: region.pointer(to: info.payload), count: info.length),
      at: reservation.payload)
    try publication.deallocate(info.payload)
    for pointer in pointers { try publication.set(reservation.payload.rawValue, at: pointer) }
    return true
  }

  /// Chooses slabs of a class whose live blocks, all of them pointed to, find room in the others, the emptiest first, and
  /// keeps new blocks out of them.
  private func chooseSparse(
    _ index: Int, _ known: Set<UnsafeMutablePointer<Slab>>, pointedTo: (UnsafeMutablePointer<Slab>) -> Int
  ) -> [UnsafeMutablePointer<Slab>] {
    if known.isEmpty { return [] }
    // Room in any share is room.
    let c = joinShares(index)
    lock(of: c).lock()
    defer { lock(of: c).unlock() }
    // What has rested is room.
    settleAllRested(c)
    var room = 0
    var next = c.pointee.anySlab
    while let slab = next {
      next = slab.pointee.nextOfClass
      if !slab.isScanned { scan(c, slab) }
      if !slab.pointee.isSetAside {
        room += slab.pointee.freeCount + slab.pointee.blockCount - slab.pointee.mark
      }
    }
    var chosen: [UnsafeMutablePointer<Slab>] = []
    let candidates = known.map { (slab: $0, live: $0.allocatedCount) }
    for (slab, live) in candidates.sorted(by: {
      ($0.live, $0.slab.pointee.base) < ($1.live, $1.slab.pointee.base)
    }) {
      guard slab.home == c, slab.pointee.isInUse, slab.pointee.damaged == 0, !slab.pointee.isSetAside,
        !slab.pointee.isDraining,
        live * 2 < slab.pointee.blockCount, pointedTo(slab) == live
      else { continue }
      let own = slab.pointee.freeCount + slab.pointee.blockCount - slab.pointee.mark
      guard room - own >= live else { break }
      room -= own + live
      slab.pointee.isDraining = true
      c.pointee.unlist(slab)
      chosen.append(slab)
    }
    return chosen
  }

  private func endDraining(_ slab: UnsafeMutablePointer<Slab>) {
    guard let home = lockHome(of: slab) else { return }
    defer { lock(of: home).unlock() }
    slab.pointee.isDraining = false
    if slab.pointee.isInUse { home.pointee.relist(slab) }
  }
}
