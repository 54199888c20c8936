import CNVM
import Glibc
import NVMRegion

// How slabs come to be and how their blocks come to be known.
//
// A block exists on the medium from the moment the slab's high-water mark covers it: below the mark every
// block has a valid header, above it nothing is read.
//
//     headers of 64 blocks := free, flush, order  →  mark += 64, flush, fence  →  free bits in memory
//
// A crash before the mark leaves headers nobody reads.
extension PersistentHeap {
  static let batch = 64

  /// Makes a slab whose first batch is formatted already: headers are written while the extent is still free,
  /// then one commit of the entry makes slab, generation and mark true at once.
  func makeSlab(_ c: UnsafeMutablePointer<SizeClass>, reclaiming: Bool) throws(NVMError) {
    let blockBytes = c.pointee.blockBytes
    let hasPending = extents.withLock { _ in shares.first(c.pointee.index).pointee.pendingSlabs > 0 }
    lock(of: c).lock()
    let isFirst = c.pointee.slabCount == 0 && !hasPending
    lock(of: c).unlock()
    let small = SizeClasses.slabUnits(blockBytes: blockBytes, unitShift: unitShift, isFirst: true)
    let count = SizeClasses.slabUnits(blockBytes: blockBytes, unitShift: unitShift, isFirst: isFirst)
    var units = count
    let unit: Int
    do throws(NVMError) {
      unit = try acquireExtent(count, reclaiming: reclaiming && count == small)
    } catch {
      guard count > small, error.code == .outOfSpace || error.code == .diskFull else { throw error }
      unit = try acquireExtent(small, reclaiming: reclaiming)
      units = small
    }
    let generation = nextGeneration()
    let place = extents.withLock { space in
      space.slabUnits += units
      return BlockPlace(slab: makeDescriptor(&space, c, unit, units, blockBytes, generation), index: 0)
    }
    let slab = place.slab!
    let mark = min(Self.batch, slab.pointee.blockCount)
    if blockBytes <= 4096 { populate(unit, units) }
    formatHeaders(slab, 0, mark)
    try region.order()
    gate.enter()
    let base = start(ofUnit: unit)
    writeEntry(
      unit, .slab, length: units, UInt64(blockBytes / 64) | UInt64(generation) << 32, 0,
      check.mark(UInt32(mark), generation: generation, at: base))
    gate.leave()
    try region.settle()
    slab.pointee.mark = mark
    let bits = slab.prepareBits()
    slab.publishBits(bits)
    for i in 0..<mark { slab.setFree(i) }
    enter(slab)
    lock(of: c).lock()
    slab.setHome(c)
    slab.pointee.isInUse = true
    c.pointee.add(slab)
    c.pointee.emptyCount += 1
    c.pointee.relist(slab)
    lock(of: c).unlock()
  }

  /// A number that differs between slabs of one place, so that headers of an earlier use never verify.
  private func nextGeneration() -> UInt32 {
    let n = nvm_fetch_add_relaxed(control + Control.generation, 1)
    return nvm_fold32(nvm_mix2(check.seed, region.incarnation, n))
  }

  private func formatHeaders(_ slab: UnsafeMutablePointer<Slab>, _ from: Int, _ to: Int) {
    let lines = slab.pointee.blockBytes >> 6
    for i in from..<to {
      let block = Offset(rawValue: slab.offset(i))
      region.store(
        check.freeBlock(lines: lines, at: block.rawValue, generation: slab.pointee.generation), at: block)
      region.flush(block, count: 8)
    }
  }

  /// Raises the mark by a batch. Under the class lock.
  func format(_ c: UnsafeMutablePointer<SizeClass>, _ slab: UnsafeMutablePointer<Slab>) throws(NVMError) {
    let old = slab.pointee.mark
    let new = min(old + Self.batch, slab.pointee.blockCount)
    formatHeaders(slab, old, new)
    try region.order()
    gate.enter()
    defer { gate.leave() }
    let at = entry(slab.pointee.firstUnit) + 24
    region.store(
      check.mark(UInt32(new), generation: slab.pointee.generation, at: slab.pointee.base), at: at)
    region.flush(at, count: 8)
    // Other threads will take these blocks and fence only what they wrote themselves.
    try region.settle()
    slab.pointee.mark = new
    for i in old..<new { slab.setFree(i) }
    c.pointee.relist(slab)
  }

  /// Builds the bitmaps of a slab from its headers. A block whose header does not verify is neither free nor
  /// allocated: it is set aside. Under the class lock. O(blocks).
  func scan(_ c: UnsafeMutablePointer<SizeClass>, _ slab: UnsafeMutablePointer<Slab>) {
    let bits = slab.prepareBits()
    let free = bits + 8
    let lines = slab.pointee.blockBytes >> 6
    var live = 0
    var vacant = 0
    for i in 0..<slab.pointee.mark {
      let block = Offset(rawValue: slab.offset(i))
      let word0 = region.load(block)
      let bit: UInt64 = 1 << UInt64(i & 63)
      if word0 == check.freeBlock(lines: lines, at: block.rawValue, generation: slab.pointee.generation) {
        // With a damaged mark nobody knows whether this is a block yet.
        if slab.pointee.isSetAside { continue }
        (free + (i >> 6) * 16).assumingMemoryBound(to: UInt64.self).pointee |= bit
        vacant += 1
      } else if isAllocated(word0, region.load(block + 8), block.rawValue, slab) {
        (bits + (i >> 6) * 16).assumingMemoryBound(to: UInt64.self).pointee |= bit
        live += 1
      } else if !slab.pointee.isSetAside {
        slab.pointee.damaged += 1
        noteDamage()
      }
    }
    slab.pointee.freeCount = vacant
    slab.pointee.searchWord = 0
    slab.pointee.busy = live
    c.pointee.liveBlocks += live
    if live == 0 {
      c.pointee.emptyCount += 1
      noteGain()
    }
    slab.publishBits(bits)
    c.pointee.relist(slab)
  }

  /// Whether a header is that of an allocated block of this slab.
  @inline(__always)
  func isAllocated(_ word0: UInt64, _ word1: UInt64, _ block: UInt64, _ slab: UnsafeMutablePointer<Slab>)
    -> Bool
  {
    BlockHeader.state(word0) == BlockState.allocated
      && check.block(
        UInt32(truncatingIfNeeded: word0), at: block, generation: slab.pointee.generation, word1: word1)
        == word0
      && BlockHeader.lines(word0) == slab.pointee.blockBytes &>> 6
  }

  // MARK: Descriptors

  /// A descriptor, a spare one where there is one, not in use yet. Under the extent lock.
  func makeDescriptor(
    _ space: inout ExtentSpace, _ c: UnsafeMutablePointer<SizeClass>, _ unit: Int, _ units: Int,
    _ blockBytes: Int,
    _ generation: UInt32
  ) -> UnsafeMutablePointer<Slab> {
    let slab: UnsafeMutablePointer<Slab>
    if let spare = space.spareSlabs {
      slab = spare
      space.spareSlabs = spare.pointee.nextOfClass
    } else {
      slab = Slab.make(unitShift: unitShift)
    }
    assert(MemoryLayout<Slab>.offset(of: \.bits) == Slab.bitsOffset)
    assert(MemoryLayout<Slab>.offset(of: \.home) == Slab.homeOffset)
    slab.pointee = Slab()
    slab.pointee.base = start(ofUnit: unit)
    slab.pointee.blockBytes = blockBytes
    let lines = UInt64(blockBytes / 64)
    slab.pointee.reciprocal = ((1 << 40) + lines - 1) / lines
    slab.pointee.blockCount = (units << unitShift) / blockBytes
    slab.pointee.generation = generation
    slab.pointee.classIndex = c.pointee.index
    slab.pointee.firstUnit = unit
    slab.pointee.unitCount = units
    slab.pointee.wordCount = (slab.pointee.blockCount + 63) / 64
    assert(slab.pointee.wordCount <= Slab.wordCapacity(unitShift: unitShift))
    return slab
  }

  /// Lets offsets find the slab.
  func enter(_ slab: UnsafeMutablePointer<Slab>) {
    let word = UInt64(UInt(bitPattern: slab)) | UnitMap.Tag.slab
    for u in slab.pointee.firstUnit..<slab.pointee.firstUnit + slab.pointee.unitCount { map.setWord(u, word) }
  }
}
