import CNVM
import NVMRegion
import NVMalloc

/// What an update asks of the entry that is there.
@frozen @usableFromInline enum UpdateCondition: Equatable {
  case always
  /// Only where the key is missing.
  case absent
  /// Only where the slot's word is still this one.
  case unchanged(UInt64)
}

/// How an update ended.
@frozen @usableFromInline enum UpdateOutcome {
  case inserted
  /// The word that was replaced. A record it names stays readable while the caller's epoch is pinned.
  case replaced(UInt64)
  /// The condition did not hold; the word that is there now (nil: no entry).
  case refused(UInt64?)
}

extension TreeEngine {
  /// The slot word for a value, with the record it needs, if any.
  func prepare(_ key: SearchKey, word: UInt64, bytes: UnsafeRawBufferPointer?) throws(NVMError) -> (
    word: UInt64, record: Offset?
  ) {
    if key.bytes != nil {
      if let bytes {
        let record = try makeRecord(key: key, value: bytes)
        return (record.rawValue, record)
      }
      let little = word.littleEndian
      var record = Offset.null
      try withUnsafeBytes(of: little) { (buffer) throws(NVMError) in
        record = try makeRecord(key: key, value: buffer)
      }
      return (record.rawValue, record)
    }
    guard let bytes else { return (word, nil) }
    if bytes.count <= 7 {
      var inline: UInt64 = 0
      for (i, byte) in bytes.enumerated() { inline |= UInt64(byte) << UInt64(8 * i) }
      return (inline << 8 | UInt64(bytes.count), nil)
    }
    let record = try makeRecord(key: key, value: bytes)
    return (record.rawValue << 8 | RecordLayout.recordTag, record)
  }

  /// Inserts or replaces the entry of `key`. Durable on return. O(log n); one fence, two with a record or a split.
  ///
  /// - Parameters:
  ///   - word: the value of a word-valued tree.
  ///   - bytes: the value of a byte-valued tree, else nil.
  @usableFromInline
  func update(
    _ key: SearchKey, word: UInt64, bytes: UnsafeRawBufferPointer?, condition: UpdateCondition
  ) throws(NVMError) -> UpdateOutcome {
    let outcome = try settleUpdate(key, word: word, bytes: bytes, condition: condition)
    // With no lock held, nor the gate: on a journal this waits for the disk.
    try region.acknowledge()
    return outcome
  }

  @inline(__always)
  private func settleUpdate(
    _ key: SearchKey, word: UInt64, bytes: UnsafeRawBufferPointer?, condition: UpdateCondition
  ) throws(NVMError) -> UpdateOutcome {
    try checkWritable()
    admit()
    let stripe = try gate.enter()
    defer { gate.leave(stripe) }
    if let bytes, bytes.count > RecordLayout.maximumValueLength {
      throw valueTooLarge(bytes.count)
    }
    // The way down reads separators of long keys, which are freed by epoch.
    if key.bytes != nil { space.epochs.pin() }
    defer { if key.bytes != nil { space.epochs.unpin() } }
    let value = try prepare(key, word: word, bytes: bytes)
    // The record is durable before a leaf can name it.
    if value.record != nil { try region.order() }
    do throws(NVMError) {
      let outcome = try update(key, word: value.word, condition)
      if case .refused = outcome, let record = value.record { discardRecord(record) }
      return outcome
    } catch {
      if let record = value.record { discardRecord(record) }
      throw error
    }
  }

  @inline(never) func valueTooLarge(_ count: Int) -> NVMError {
    NVMError(code: .tooLarge, message: "A value of \(count) bytes is too large.", path: region.path)
  }

  /// Stores a word that was prepared, for the member of a group that cannot go with the others. Within the gate.
  @inline(never) func updateAlone(_ key: SearchKey, word: UInt64) throws(NVMError) -> UpdateOutcome {
    try update(key, word: word, .always)
  }

  @inline(__always)
  private func update(_ key: SearchKey, word: UInt64, _ condition: UpdateCondition) throws(NVMError)
    -> UpdateOutcome
  {
    let fingerprint = key.fingerprint
    let position = lockLeaf(for: key)
    do throws(NVMError) { try settleLeaf(position.leaf) } catch {
      unlockUnchanged(position.leaf, position.version)
      throw error
    }
    let leaf = leaf(position.leaf)
    let commit = leaf.commit
    if let slot = find(key, in: leaf, live: commit.live, fingerprint: fingerprint) {
      let old = leaf.word(slot)
      switch condition {
      case .always: break
      case .unchanged(old): break
      default:
        unlockUnchanged(position.leaf, position.version)
        try awaitDurable(position.leaf)
        return .refused(old)
      }
      do throws(NVMError) {
        try replace(slot, in: leaf, commit, key.head, word, fingerprint)
      } catch {
        unlock(position.leaf, position.version)
        throw error
      }
      unlock(position.leaf, position.version)
      if let record = recordOffset(key.head, old) { retire(.record(record)) }
      return .replaced(old)
    }
    if case .unchanged = condition {
      unlockUnchanged(position.leaf, position.version)
      try awaitDurable(position.leaf)
      return .refused(nil)
    }
    do throws(NVMError) {
      if commit.count < leafCapacity {
        try insert(into: leaf, commit, key.head, word, fingerprint)
      } else {
        try splitAndInsert(leaf, commit, key, word, fingerprint)
      }
    } catch {
      unlock(position.leaf, position.version)
      throw error
    }
    entryCount.add(1)
    unlock(position.leaf, position.version)
    return .inserted
  }

  // MARK: Steps within a locked leaf

  /// Writes a slot that is free. Its line is flushed with the change, unless it is the first.
  @inline(__always)
  func fill(_ leaf: Leaf, _ slot: Int, _ head: UInt64, _ word: UInt64) {
    let at = leaf.offset + LeafLayout.slot(slot)
    region.store(head, at: at)
    region.store(word, at: at + 8)
  }

  @inline(__always)
  func setFingerprint(_ leaf: Leaf, _ slot: Int, _ fingerprint: UInt8) {
    let at = LeafLayout.fingerprints &+ (slot & ~7)
    let shift = UInt64(slot & 7) &* 8
    let old = nvm_load_relaxed(leaf.base + at)
    let new = old & ~(0xFF &<< shift) | UInt64(fingerprint) &<< shift
    if new != old { region.store(new, at: leaf.offset + at) }
  }

  /// Steps 2 to 4 of a change (LeafLayout): sums, commit word (atomic), flush of the first line, fence.
  /// - Parameters:
  ///   - words: which words of the first line may have changed, beyond these.
  ///   - lines: which lines may have changed, beyond the first; flushed already, unless that is put off.
  @inline(__always)
  func commit(
    _ leaf: Leaf, _ old: LeafCommit, live: UInt64, alternate: Bool, sum: UInt32, words: UInt8 = 0xFF,
    lines: UInt8 = 0
  ) throws(NVMError) {
    let present = leaf.sums & 0xFFFF_FFFF
    region.store(UInt64(sum) | present << 32, at: leaf.offset + LeafLayout.sums)
    region.store(
      LeafCommit(live: live, alternate: alternate, previous: old).raw, at: leaf.offset + LeafLayout.commit)
    if isMarked { return try commitMarked(leaf, words: words | 0b11, lines: lines) }
    region.flush(line: leaf.offset, words: words | 0b11)
    try region.settle()
  }

  /// Starts the write-back of words of another line than the first, unless that is put off.
  @inline(__always)
  func flush(_ leaf: Leaf, line: Int, words: UInt8) {
    if !putsOff { region.flush(line: leaf.offset + line &* 64, words: words) }
  }

  /// Where a new entry goes: slot 0 where it is free (one line to flush); else a line with two free slots, which
  /// also takes the entry of slot 0, so that the next insert finds slot 0 free (LB+-Tree, VLDB 2020, §4.2); else
  /// any free slot.
  @inline(__always)
  private func choosePlace(_ free: UInt64) -> (slot: Int, moveTo: Int?) {
    if free & 1 != 0 { return (0, nil) }
    var line = 1
    while line <= 7 {
      let here = free & LeafLayout.lineMask(line)
      if here & (here &- 1) != 0 {
        return (here.trailingZeroBitCount, (here & (here &- 1)).trailingZeroBitCount)
      }
      line &+= 1
    }
    return (free.trailingZeroBitCount, nil)
  }

  /// One fence; one flushed line when slot 0 is free, else two.
  @inline(__always)
  func insert(
    into leaf: Leaf, _ old: LeafCommit, _ head: UInt64, _ word: UInt64, _ fingerprint: UInt8
  ) throws(NVMError) {
    let s = leafSeed(leaf.node)
    var sum = UInt32(truncatingIfNeeded: leaf.sums)
    let (live, added, words, lines) = place(
      in: leaf, keeping: old.live, free: ~old.live & LeafLayout.slotMask, head, word, fingerprint, s)
    sum &+= added
    try commit(leaf, old, live: live, alternate: old.alternate, sum: sum, words: words, lines: lines)
  }

  /// Writes an entry to a free slot, moving slot 0's along where that pays; returns the new live set, what the sum
  /// gains, the words of the first line that changed, and the other lines that did. `keeping` is the set that goes on living; `free` the slots
  /// that may be written.
  @inline(__always)
  private func place(
    in leaf: Leaf, keeping live: UInt64, free: UInt64, _ head: UInt64, _ word: UInt64, _ fingerprint: UInt8,
    _ s: UInt64
  ) -> (live: UInt64, added: UInt32, words: UInt8, lines: UInt8) {
    let (slot, moveTo) = choosePlace(free)
    var words = LeafLayout.fingerprintWord(slot)
    fill(leaf, slot, head, word)
    setFingerprint(leaf, slot, fingerprint)
    var live = live | 1 &<< UInt64(slot)
    var added = slotHash(s, slot, head, word, fingerprint)
    if let moveTo, live & 1 != 0 {
      let movedHead = leaf.head(0)
      let movedWord = leaf.word(0)
      fill(leaf, moveTo, movedHead, movedWord)
      let movedPrint = leaf.fingerprint(0)
      setFingerprint(leaf, moveTo, movedPrint)
      words |= LeafLayout.fingerprintWord(moveTo)
      live = live & ~1 | 1 &<< UInt64(moveTo)
      added =
        added &+ slotHash(s, moveTo, movedHead, movedWord, movedPrint)
        &- slotHash(s, 0, movedHead, movedWord, movedPrint)
    }
    guard slot != 0 else { return (live, added, words | LeafLayout.slotWords(0), 0) }
    let moved = moveTo.map { LeafLayout.slotWords($0) } ?? 0
    let line = LeafLayout.slot(slot) &>> 6
    flush(leaf, line: line, words: LeafLayout.slotWords(slot) | moved)
    return (live, added, words, 1 &<< UInt8(truncatingIfNeeded: line))
  }

  /// Replaces the word of an entry. An entry in slot 0 shares its line with sums and commit word: there the word
  /// itself is stored last, in place. Any other takes a new slot. One fence, one or two lines.
  @inline(__always)
  private func replace(
    _ slot: Int, in leaf: Leaf, _ old: LeafCommit, _ head: UInt64, _ word: UInt64, _ fingerprint: UInt8
  ) throws(NVMError) {
    let s = leafSeed(leaf.node)
    let present = UInt32(truncatingIfNeeded: leaf.sums)
    let gone = slotHash(s, slot, head, leaf.word(slot), fingerprint)
    if slot == 0 {
      // Same line, this order; the last store is the atomic one. Before it S(live) equals the high sum.
      let sum = present &- gone &+ slotHash(s, 0, head, word, fingerprint)
      region.store(UInt64(sum) | UInt64(present) << 32, at: leaf.offset + LeafLayout.sums)
      region.store(
        LeafCommit(settled: old.live, alternate: old.alternate).raw, at: leaf.offset + LeafLayout.commit)
      region.store(word, at: leaf.offset + (LeafLayout.slot(0) + 8))
      if isMarked { return try commitMarked(leaf, words: 0b1000_0011, lines: 0) }
      region.flush(line: leaf.offset, words: 0b1000_0011)
      try region.settle()
      return
    }
    // The old slot is not free yet: prev still names it.
    let keeping = old.live & ~(1 &<< UInt64(slot))
    let (live, added, words, lines) = place(
      in: leaf, keeping: keeping, free: ~old.live & LeafLayout.slotMask, head, word, fingerprint, s)
    try commit(
      leaf, old, live: live, alternate: old.alternate, sum: present &- gone &+ added, words: words,
      lines: lines)
  }
}
