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
    if bytes.count <= SlotValue.maximumLength { return (SlotValue.word(bytes), nil) }
    let record = try makeRecord(key: key, value: bytes)
    return (SlotValue.word(record), record)
  }

  /// As `prepare`, ahead of the change and so outside of the gate, which it passes for the record: the removal of a tree
  /// frees all of its records, and nobody may make one behind it.
  func prepareAhead(
    _ key: SearchKey, word: UInt64, bytes: UnsafeRawBufferPointer?
  ) throws(NVMError) -> (word: UInt64, record: Offset?) {
    guard key.bytes != nil || (bytes?.count ?? 0) > SlotValue.maximumLength else {
      return try prepare(key, word: word, bytes: bytes)
    }
    let line = try gate.enter()
    defer { gate.leave(line) }
    return try prepare(key, word: word, bytes: bytes)
  }

  /// Frees a record that was prepared ahead and that no leaf refers to; unless the tree was removed meanwhile, and the
  /// record with it, whose space may be another's by now.
  func discardPrepared(_ record: Offset) {
    do throws(NVMError) {
      let line = try gate.enter()
      defer { gate.leave(line) }
      discardRecord(record)
    } catch {
      // Otherwise a transaction of this thread holds the tree: nobody removes it.
      if !gate.isRemoved { discardRecord(record) }
    }
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
    // First of all, so that the way down overlaps with the fence of the operation before.
    let hint = key.bytes == nil ? route(key.head) : nil
    admit()
    let line = try gate.enter()
    defer { gate.leave(line) }
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
      let outcome = try update(key, word: value.word, condition, hint: hint)
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
  func update(
    _ key: SearchKey, word: UInt64, _ condition: UpdateCondition, hint: Position? = nil
  ) throws(NVMError) -> UpdateOutcome {
    let fingerprint = key.fingerprint
    let position = lockLeaf(for: key, hint: hint)
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
        let change = replacement(of: slot, in: leaf, commit, key.head, word, fingerprint)
        try carryOut(change, in: leaf, commit, key.head, word, fingerprint)
      } catch {
        unlock(position.leaf, position.version)
        throw error
      }
      unlock(position.leaf, position.version)
      if let record = recordOffset(key.head, old) { retire(.record(record)) }
      return .replaced(old)
    }
    try checkAbsence(of: key, in: leaf, position, fingerprint)
    if case .unchanged = condition {
      unlockUnchanged(position.leaf, position.version)
      try awaitDurable(position.leaf)
      return .refused(nil)
    }
    do throws(NVMError) {
      if commit.count < leafCapacity {
        let change = insertion(into: leaf, commit, key.head, word, fingerprint)
        try carryOut(change, in: leaf, commit, key.head, word, fingerprint)
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

  /// Throws, and unlocks, where a key that was not found in a locked leaf may be there in a damaged record.
  @inline(__always)
  func checkAbsence(
    of key: SearchKey, in leaf: Leaf, _ position: Position, _ fingerprint: UInt8
  ) throws(NVMError) {
    guard mustCheckAbsence(of: key),
      let damaged = damagedCandidate(key, in: leaf, live: leaf.commit.live, fingerprint: fingerprint)
    else { return }
    unlockUnchanged(position.leaf, position.version)
    throw corruptRecordError(damaged)
  }

  // MARK: Steps within a locked leaf

  /// Writes a slot that is free. Its line is flushed with the change, unless it is the first.
  @inline(__always)
  func fill(_ leaf: Leaf, _ slot: Int, _ head: UInt64, _ word: UInt64) {
    var tally = StoreTally()
    fill(leaf, slot, head, word, counting: &tally)
    region.count(tally)
  }
  @inline(__always)
  func fill(
    _ leaf: Leaf, _ slot: Int, _ head: UInt64, _ word: UInt64, counting tally: inout StoreTally
  ) {
    let at = leaf.offset + LeafLayout.slot(slot)
    region.store(head, at: at, counting: &tally)
    region.store(word, at: at + 8, counting: &tally)
  }

  @inline(__always)
  func setFingerprint(_ leaf: Leaf, _ slot: Int, _ fingerprint: UInt8) {
    var tally = StoreTally()
    setFingerprint(leaf, slot, fingerprint, counting: &tally)
    region.count(tally)
  }
  @inline(__always)
  func setFingerprint(
    _ leaf: Leaf, _ slot: Int, _ fingerprint: UInt8, counting tally: inout StoreTally
  ) {
    let at = LeafLayout.fingerprints &+ (slot & ~7)
    let shift = UInt64(slot & 7) &* 8
    let old = nvm_load_relaxed(leaf.base + at)
    let new = old & ~(0xFF &<< shift) | UInt64(fingerprint) &<< shift
    if new != old { region.store(new, at: leaf.offset + at, counting: &tally) }
  }

  /// Steps 2 to 4 of a change (LeafLayout): sums, commit word (atomic), flush of the first line, fence.
  /// - Parameters:
  ///   - words: which words of the first line may have changed, beyond these.
  ///   - lines: which lines may have changed, beyond the first; flushed already, unless that is put off.
  ///   - tally: what was stored before and is to be counted.
  @inline(__always)
  func commit(
    _ leaf: Leaf, _ old: LeafCommit, live: UInt64, alternate: Bool, sum: UInt32, words: UInt8 = 0xFF,
    lines: UInt8 = 0, counting tally: StoreTally = StoreTally()
  ) throws(NVMError) {
    var tally = tally
    let present = leaf.sums & 0xFFFF_FFFF
    region.store(UInt64(sum) | present << 32, at: leaf.offset + LeafLayout.sums, counting: &tally)
    region.store(
      LeafCommit(live: live, alternate: alternate, previous: old).raw, at: leaf.offset + LeafLayout.commit,
      counting: &tally)
    try settle(leaf, words: words | 0b11, lines: lines, counting: tally)
  }

  /// Step 4.
  @inline(__always)
  func settle(_ leaf: Leaf, words: UInt8, lines: UInt8, counting tally: StoreTally) throws(NVMError) {
    if isMarked {
      region.count(tally)
      return try commitMarked(leaf, words: words, lines: lines)
    }
    var tally = tally
    region.flush(line: leaf.offset, words: words, counting: &tally)
    try region.settle(counting: tally)
  }

  /// Starts the write-back of words of another line than the first, unless that is put off.
  @inline(__always)
  func flush(_ leaf: Leaf, line: Int, words: UInt8) {
    if !putsOff { region.flush(line: leaf.offset + line &* 64, words: words) }
  }
}
