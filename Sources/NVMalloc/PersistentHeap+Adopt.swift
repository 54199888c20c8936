import CNVM
import NVMRegion

// How slabs that were there at open come to have a descriptor. Opening reads their heads and leaves it at that: with ten
// million small blocks there are twenty thousand of them, and to write memory about each takes longer than all else. They
// are adopted some at a time when blocks of their class run out, by place when a block in one is named, and all of them
// by whatever looks at the whole heap.
//
// Lock order: extent lock → class lock, here alone.
extension PersistentHeap {
  /// The slab that a unit belongs to, if it belongs to one. A load, but for slabs not needed since opening.
  @inline(__always)
  func slab(ofUnit unit: Int) -> UnsafeMutablePointer<Slab>? {
    let word = map.word(unit)
    if let slab = UnitMap.slab(word) { return slab }
    return word == 0 && !pending.isEmpty ? adoptedSlab(unit) : nil
  }

  @inline(never)
  private func adoptedSlab(_ unit: Int) -> UnsafeMutablePointer<Slab>? {
    extents.withLock { space in
      let first = max(0, unit - Slab.longestPending + 1) >> 6
      if first < pending.wordCount {
        for word in first...min(unit >> 6, pending.wordCount - 1) { adoptPending(&space, word) }
      }
    }
    // Another thread may have been first.
    return UnitMap.slab(map.word(unit))
  }

  /// Adopts some slabs of whatever classes, where the class has any. `false` where there are none. Needs no lock held.
  func adoptSome(_ c: UnsafeMutablePointer<SizeClass>) -> Bool {
    if pending.isEmpty { return false }
    return extents.withLock { space in
      // Nobody else writes it.
      guard shares.first(c.pointee.index).pointee.pendingSlabs > 0 else { return false }
      while space.adoptedWords < pending.wordCount {
        let word = space.adoptedWords
        space.adoptedWords += 1
        if pending.first(inWord: word) != nil {
          adoptPending(&space, word)
          return true
        }
      }
      return false
    }
  }

  /// Adopts all slabs, a stretch at a time. O(units / 64 + slabs pending). Needs no lock held.
  func adoptAll() {
    var word = 0
    while word < pending.wordCount, !pending.isEmpty {
      extents.withLock { space in
        let end = min(word + 64, pending.wordCount)
        while word < end {
          adoptPending(&space, word)
          word += 1
        }
      }
    }
  }

  /// Makes descriptors for the slabs that start in 64 units.
  private func adoptPending(_ space: inout ExtentSpace, _ word: Int) {
    guard pending.first(inWord: word) != nil else { return }
    let walk = ExtentWalk(region, check, space.header, isAtRest: true)
    while let unit = pending.first(inWord: word) {
      if let head = walk.head(unit), head.kind == .slab {
        adoptSlab(&space, head)
        let c = shares.first(SizeClasses.index(lines: head.blockLines))
        // The extent lock guards it; the class's own is for the thread sanitizer, to which a change of a field is one of
        // the class's first word.
        lock(of: c).lock()
        c.pointee.pendingSlabs -= 1
        lock(of: c).unlock()
      } else {
        // It verified when the heap was opened: what it held cannot be reached until a repair.
        noteDamage()
      }
      pending.remove(unit)
    }
  }

  /// Gives a slab that its head describes a descriptor. Under the extent lock.
  func adoptSlab(_ space: inout ExtentSpace, _ head: ExtentWalk.Head) {
    let c = shares.first(SizeClasses.index(lines: head.blockLines))
    let slab = makeDescriptor(
      &space, c, head.unit, head.length, head.blockLines * 64, UInt32(head.word1 >> 32))
    if let mark = head.mark {
      slab.pointee.mark = mark
    } else {
      slab.pointee.mark = slab.pointee.blockCount
      slab.pointee.isSetAside = true
    }
    // Whoever finds it by place, and wants to read its headers, waits until the class knows it.
    lock(of: c).lock()
    defer { lock(of: c).unlock() }
    slab.setHome(c)
    enter(slab)
    slab.pointee.isInUse = true
    c.pointee.add(slab)
    // The one that certainly has room is read first.
    if slab.pointee.mark < slab.pointee.blockCount {
      c.pointee.pushFront(slab)
    } else {
      c.pointee.relist(slab)
    }
  }
}
