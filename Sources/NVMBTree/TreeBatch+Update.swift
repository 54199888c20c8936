import CNVM
public import NVMRegion

// A group of updates shares one fence. Each leaf it touches stays locked from its first change until the fence has
// ended, so no reader sees what a crash could take back; and it takes one commit word for all the group's changes in
// it, so that the set before the group, the last fenced one, stays whole as the one to go back to:
//
//     lock L, M, …           free slots of L, M, … := new entries
//     L, M, …: sums; commit word { live = all of it, prev = the fenced set }              <- atomic, leaf by leaf
//     flush all, one fence   unlock all
//
// Slots and commit word of a leaf may reach the medium in any order: the sums tell (LeafLayout).
//
// On a journal a group is an atomic step: after a crash all of it is there or nothing. So nobody goes back to the set
// before it, and the word of an entry that is there is stored in its place: 16 bytes of journal, with the sums, instead
// of the 48 of a new slot. The sums are both those of the set that holds, so either commit word is right.
//
// Deadlock is excluded because a group that holds a lock waits for no other: what it cannot lock at once, and what
// needs a split, is done alone, after the group's locks are gone. Keys are taken in their order.

/// A leaf that a group has locked and changed but not yet committed.
struct PendingLeaf {
  var leaf: Leaf
  var version: UInt64
  var old: LeafCommit
  var live: UInt64
  var sum: UInt32
  var isChanged = false
  /// Bit 8 n + w: word w of line n was written, besides commit word and sums.
  var words: UInt64 = 0
}

extension TreeBatch {
  /// The word to store for the key added last, with the record it needs.
  @usableFromInline func prepareLast(word: UInt64, bytes: UnsafeRawBufferPointer?) throws(NVMError) {
    let i = count - 1
    if let bytes, bytes.count > RecordLayout.maximumValueLength {
      count -= 1
      throw engine.valueTooLarge(bytes.count)
    }
    do throws(NVMError) {
      let value = try engine.prepareAhead(keys[i], word: word, bytes: bytes)
      words[i] = value.word
      if value.record != nil { loose |= 1 << UInt32(i) }
    } catch {
      count -= 1
      throw error
    }
  }

  /// Frees the records of entries that were not stored.
  @usableFromInline func discardLoose() {
    for i in 0..<count where loose & 1 << UInt32(i) != 0 {
      if let record = engine.recordOffset(keys[i].head, words[i]) { engine.discardPrepared(record) }
    }
    loose = 0
    count = 0
  }

  /// Stores all entries, durable on return, and empties the batch. On an error those before some entry are stored.
  /// - Returns: how many keys were not there before.
  @usableFromInline func update() throws(NVMError) -> Int {
    guard count > 0 else { return 0 }
    let inserted = try settleAll()
    // With no lock held, nor the gate: on a journal this waits for the disk.
    try engine.region.acknowledge()
    return inserted
  }

  private func settleAll() throws(NVMError) -> Int {
    try engine.checkWritable()
    engine.admit()
    let line = try engine.gate.enter()
    defer { engine.gate.leave(line) }
    // The way down reads separators of long keys, which are freed by epoch.
    engine.space.epochs.pin()
    defer { engine.space.epochs.unpin() }
    let isOwnStep = beginStep()
    defer { if isOwnStep { engine.region.endDeferral(isAtomic: true) } }
    isAtomic = isOwnStep || engine.region.isInAtomicDeferral
    insertedCount = 0
    // Records are durable before a leaf can name them.
    if loose != 0 { try engine.region.order() }
    // Of words the lines behind the first are asked for when it is known which.
    descend(fetchingAll: engine.keysAreBytes)
    do throws(NVMError) {
      var i = 0
      while i < count {
        // All locks before the first store: a locked instruction waits for every store and write-back before it.
        var end = i
        while end < count, lock(end) { end += 1 }
        while i < end, add(i) {
          loose &= ~(1 << UInt32(i))
          i += 1
        }
        try settle()
        guard i < count else { break }
        if let noted { try note(i, in: noted) }
        if case .inserted = try engine.updateAlone(keys[i], word: words[i]) { insertedCount &+= 1 }
        loose &= ~(1 << UInt32(i))
        i += 1
        findAgain(i)
      }
    } catch {
      try? settle()
      throw error
    }
    count = 0
    return insertedCount
  }

  /// Makes an atomic step of the group, where there are such and it is not part of one. With no leaf locked.
  private func beginStep() -> Bool {
    let region = engine.region
    // A change may split a leaf. Records are flushed before.
    guard region.deferralCapacity >= count &* 1024, !region.isInAtomicDeferral else { return false }
    return region.beginDeferral(isAtomic: true)
  }

  /// The way to the entries from `i` on anew, where the one before, which went alone, has changed it: of neighbours one
  /// split would make all that follow go alone.
  private func findAgain(_ i: Int) {
    let changed = steps[i - 1].node
    for j in i..<count where steps[j].node == changed {
      let position = engine.descend(keys[j])
      (steps[j].node, steps[j].version, steps[j].isLost) = (position.leaf, position.version, false)
    }
  }

  /// Locks the leaf of an entry for the group; false where that would need waiting or another way down.
  private func lock(_ i: Int) -> Bool {
    guard !steps[i].isLost else { return false }
    let node = steps[i].node
    var at = 0
    while at < pendingCount, pending[at].leaf.node != node { at &+= 1 }
    steps[i].pending = at
    // A version seen before the lock was taken, and again by this group: the same range.
    if at < pendingCount {
      fetchSlots(i, pending[at].old.live)
      return pending[at].version == steps[i].version
    }
    guard engine.tryLock(steps[i].position) else { return false }
    do throws(NVMError) { try engine.settleLeaf(node) } catch {
      // The region takes no more writes: alone it fails in the same way.
      engine.unlockUnchanged(node, steps[i].version)
      return false
    }
    let leaf = engine.leaf(node)
    let old = leaf.commit
    pending[at] = PendingLeaf(
      leaf: leaf, version: steps[i].version, old: old, live: old.live,
      sum: UInt32(truncatingIfNeeded: leaf.sums))
    pendingCount &+= 1
    fetchSlots(i, old.live)
    return true
  }

  /// Asks for the slots that a key may have and may get.
  @inline(__always) private func fetchSlots(_ i: Int, _ live: UInt64) {
    guard !engine.keysAreBytes else { return }
    let leaf = engine.leaf(steps[i].node)
    let candidates = leaf.matches(steps[i].fingerprint) & live
    if candidates != 0 { nvm_prefetch_write(leaf.base + LeafLayout.slot(candidates.trailingZeroBitCount)) }
    nvm_prefetch_write(leaf.base + LeafLayout.slot((~live & LeafLayout.slotMask).trailingZeroBitCount & 31))
  }

  private func add(_ i: Int) -> Bool { add(i, to: &pending[steps[i].pending]) }

  /// Adds an entry to a pending leaf, or gives it a new word; false, and nothing changed, where there is no room.
  @inline(__always) private func add(_ i: Int, to item: inout PendingLeaf) -> Bool {
    let leaf = item.leaf
    let head = keys[i].head
    let fingerprint = steps[i].fingerprint
    let free = ~(item.old.live | item.live) & LeafLayout.slotMask
    guard free != 0 || isAtomic else { return false }
    let s = engine.leafSeed(leaf.node)
    if let slot = engine.find(keys[i], in: leaf, live: item.live, fingerprint: fingerprint) {
      let old = leaf.word(slot)
      if let noted, !note(i, head, old, in: noted) { return false }
      item.sum &-= engine.slotHash(s, slot, head, old, fingerprint)
      item.isChanged = true
      if isAtomic {
        engine.region.store(words[i], at: leaf.offset + (LeafLayout.slot(slot) &+ 8))
        item.sum &+= engine.slotHash(s, slot, head, words[i], fingerprint)
        if let record = engine.recordOffset(head, old) { replaced.append(record) }
        item.words |= UInt64(LeafLayout.valueWord(slot)) &<< (8 &* UInt64(LeafLayout.slot(slot) >> 6))
        return true
      }
      item.live &= ~(1 &<< UInt64(slot))
      if let record = engine.recordOffset(head, old) { replaced.append(record) }
    } else {
      guard free != 0, item.live.nonzeroBitCount < engine.leafCapacity else { return false }
      item.isChanged = true
      noted?.note(changes[i], nil)
      pendingInserts &+= 1
    }
    let slot = free.trailingZeroBitCount
    engine.fill(leaf, slot, head, words[i])
    engine.setFingerprint(leaf, slot, fingerprint)
    item.sum &+= engine.slotHash(s, slot, head, words[i], fingerprint)
    item.live |= 1 &<< UInt64(slot)
    let line = UInt64(LeafLayout.slot(slot) >> 6)
    item.words |=
      UInt64(LeafLayout.fingerprintWord(slot)) | UInt64(LeafLayout.slotWords(slot)) &<< (8 &* line)
    return true
  }

  // MARK: What a transaction replaces

  /// Notes the value of an entry that is about to be replaced; false where it is damaged. The epoch is pinned.
  @inline(__always)
  private func note(_ i: Int, _ head: UInt64, _ old: UInt64, in noted: ReplacedValues) -> Bool {
    if !engine.valuesAreBytes, !engine.isLong(head) {
      noted.note(changes[i], word: old)
      return true
    }
    return noteBytes(i, head, old, in: noted)
  }
  @inline(never)
  private func noteBytes(_ i: Int, _ head: UInt64, _ old: UInt64, in noted: ReplacedValues) -> Bool {
    do throws(NVMError) {
      try engine.withBytes(head: head, word: old) { (bytes) throws(NVMError) in noted.note(changes[i], bytes)
      }
      return true
    } catch {
      // Alone it fails in the same way, before anything is changed.
      return false
    }
  }

  /// The same for an entry that goes alone. The gate keeps all other writers out of a transaction's trees.
  @inline(never)
  private func note(_ i: Int, in noted: ReplacedValues) throws(NVMError) {
    guard let word = try engine.lookup(keys[i]) else { return noted.note(changes[i], nil) }
    try engine.withBytes(head: keys[i].head, word: word) { (bytes) throws(NVMError) in
      noted.note(changes[i], bytes)
    }
  }

  /// Commits the changed leaves, all under one fence, and lets them go.
  private func settle() throws(NVMError) {
    guard pendingCount > 0 else { return }
    let region = engine.region
    for k in 0..<pendingCount where pending[k].isChanged {
      let item = pending[k]
      let at = item.leaf.offset
      let high = isAtomic ? UInt64(item.sum) : item.leaf.sums & 0xFFFF_FFFF
      region.store(UInt64(item.sum) | high << 32, at: at + LeafLayout.sums)
      pending[k].words |= LeafLayout.sumsWord
      guard item.live != item.old.live else { continue }
      let commit = LeafCommit(live: item.live, alternate: item.old.alternate, previous: item.old)
      region.store(commit.raw, at: at + LeafLayout.commit)
      pending[k].words |= LeafLayout.commitWord
    }
    for k in 0..<pendingCount where pending[k].isChanged {
      let at = pending[k].leaf.offset
      for line in 1..<8 {
        let words = UInt8(truncatingIfNeeded: pending[k].words &>> UInt64(8 &* line))
        if words != 0 { region.flush(line: at + line &* 64, words: words) }
      }
      region.flush(line: at, words: UInt8(truncatingIfNeeded: pending[k].words))
    }
    defer {
      pendingInserts = 0
      replaced.removeAll(keepingCapacity: true)
    }
    do throws(NVMError) {
      try region.settle()
    } catch {
      unlockPending()
      throw error
    }
    engine.entryCount.add(UInt64(pendingInserts))
    insertedCount &+= pendingInserts
    unlockPending()
    for record in replaced { engine.retire(.record(record)) }
  }

  private func unlockPending() {
    for k in 0..<pendingCount {
      if pending[k].isChanged {
        engine.notePosition(pending[k].leaf.node)
        engine.unlock(pending[k].leaf.node, pending[k].version)
      } else {
        engine.unlockUnchanged(pending[k].leaf.node, pending[k].version)
      }
    }
    pendingCount = 0
  }
}
