import CNVM
public import NVMRegion

extension TreeEngine {
  @usableFromInline
  func checkUsable() throws(NVMError) {
    try region.checkUsable()
    if isClosed { throw sealedError() }
    if gate.isRemoved { throw gate.removedError() }
  }

  /// For walks: a call, because where it is inlined the region is retained for each leaf.
  @inline(never)
  func checkReadable() throws(NVMError) {
    try region.checkUsable()
    guard isReadable else { throw sealedError() }
  }

  /// The word stored for `key`, or nil. O(log n), flushes nothing, takes no lock.
  ///
  /// For a key longer than its head the caller's epoch must be pinned, from before this call; and a word that leads to
  /// a record is valid only while it is.
  @usableFromInline
  func lookup(_ key: SearchKey) throws(NVMError) -> UInt64? { try search(key) }

  /// As ``lookup(_:)``, for a key that is a word.
  @usableFromInline
  func lookup(head: UInt64) throws(NVMError) -> UInt64? { try search(SearchKey(head: head)) }

  @inline(__always)
  private func search(_ key: SearchKey) throws(NVMError) -> UInt64? {
    try region.checkUsable()
    guard isReadable else { throw sealedError() }
    let fingerprint = key.fingerprint
    while true {
      let ticket = try gate.ticket()
      let position = descend(key)
      let leaf = leaf(position.leaf)
      let live = leaf.commit.live
      var word: UInt64?
      if let slot = find(key, in: leaf, live: live, fingerprint: fingerprint) { word = leaf.word(slot) }
      let isTrusted = isTrusted(leaf)
      var damaged: Offset?
      if word == nil, mustCheckAbsence(of: key) {
        damaged = damagedCandidate(key, in: leaf, live: live, fingerprint: fingerprint)
      }
      guard isUnchanged(position), gate.isCurrent(ticket) else { continue }
      guard isTrusted else { throw corruptLeafError(leaf) }
      if let damaged { throw corruptRecordError(damaged) }
      // In a damaged tree "not there" is not known.
      if word == nil, isSealed { throw sealedError() }
      try awaitDurable(position.leaf)
      return word
    }
  }

  /// Runs `body` with the bytes stored for `key` (nil where there is none), under a pinned epoch. O(log n).
  @usableFromInline
  func withValueBytes<R>(
    _ key: SearchKey, _ body: (UnsafeRawBufferPointer?) throws(NVMError) -> R
  ) throws(NVMError) -> R {
    space.epochs.pin()
    defer { space.epochs.unpin() }
    guard let word = try lookup(key) else { return try body(nil) }
    return try withBytes(head: key.head, word: word, body)
  }

  /// The value bytes of the record that a slot refers to, if it does. The epoch must be pinned.
  @usableFromInline
  func recordValue(head: UInt64, word: UInt64) throws(NVMError) -> UnsafeRawBufferPointer? {
    guard let offset = recordOffset(head, word) else { return nil }
    return try checkedRecord(at: offset).value
  }

  /// Runs `body` with the value bytes that a slot stands for. The epoch must be pinned.
  func withBytes<R>(
    head: UInt64, word: UInt64, _ body: (UnsafeRawBufferPointer?) throws(NVMError) -> R
  ) throws(NVMError) -> R {
    if let offset = recordOffset(head, word) {
      return try body(try checkedRecord(at: offset).value)
    }
    let count = valuesAreBytes ? SlotValue.length(word) : 8
    let bytes = valuesAreBytes ? SlotValue.bytes(word) : word.littleEndian
    return try withUnsafeBytes(of: bytes) { (buffer) throws(NVMError) in
      try body(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
    }
  }

  /// Whether the leaf's content matches its checksum, where the options ask. Holds if the leaf is unchanged afterwards.
  @inline(__always) func isTrusted(_ leaf: Leaf) -> Bool { !options.verifiesReads || isIntact(leaf) }

  @inline(never) private func isIntact(_ leaf: Leaf) -> Bool {
    let commit = leaf.commit
    return commit.raw & ~LeafLayout.usedCommitBits == 0
      && sum(leaf, commit.live, alternate: commit.alternate) == UInt32(truncatingIfNeeded: leaf.sums)
  }

  @inline(never) func corruptLeafError(_ leaf: Leaf) -> NVMError {
    NVMError(
      code: .corrupt,
      message:
        "A leaf's content does not match its checksum, so what should be in it cannot be told. Others are not "
        + "affected; verify() lists all damage.", path: region.path, offset: leaf.offset.rawValue)
  }

  /// Whether a key that was not found may be there all the same, in a record that is damaged.
  @inline(__always) func mustCheckAbsence(of key: SearchKey) -> Bool {
    options.verifiesReads && key.bytes != nil
  }
  /// A damaged record whose slot may be the key's. For a leaf that is locked or turns out to be unchanged.
  @inline(never)
  func damagedCandidate(_ key: SearchKey, in leaf: Leaf, live: UInt64, fingerprint: UInt8) -> Offset? {
    var candidates = leaf.matches(fingerprint) & live
    while candidates != 0 {
      let i = candidates.trailingZeroBitCount
      candidates &= candidates &- 1
      if leaf.head(i) == key.head, let damaged = damagedRecord(key.head, leaf.word(i)) { return damaged }
    }
    return nil
  }
  /// The record that a slot with a long key refers to, if it is damaged.
  func damagedRecord(_ head: UInt64, _ word: UInt64) -> Offset? {
    guard isLong(head) else { return nil }
    let offset = Offset(rawValue: word)
    guard let record = record(at: word), isIntact(record, at: offset) else { return offset }
    return nil
  }

  /// The record of a slot if it is damaged and so is its key, by what the slot says of that: the first bytes and the
  /// fingerprint. One damaged key in 256 passes for whole; whose value alone is damaged, always.
  func recordWithDamagedKey(_ leaf: Leaf, _ slot: Int) -> Offset? {
    let head = leaf.head(slot)
    guard let damaged = damagedRecord(head, leaf.word(slot)) else { return nil }
    guard let record = record(at: damaged.rawValue), record.keyLength >= 8 else { return damaged }
    let key = UnsafeRawBufferPointer(start: record.key, count: record.keyLength)
    let isLikely =
      KeyHead.ofBytes(key) == head
      && nvm_fingerprint(nvm_hash_bytes(0, record.key, record.keyLength)) == leaf.fingerprint(slot)
    return isLikely ? nil : damaged
  }

  /// The record at an offset that a validated slot names: anything wrong with it is corruption.
  func checkedRecord(at offset: Offset) throws(NVMError) -> Record {
    guard let record = record(at: offset.rawValue), !options.verifiesReads || isIntact(record, at: offset)
    else {
      throw corruptRecordError(offset)
    }
    return record
  }

  @inline(never) func corruptRecordError(_ offset: Offset) -> NVMError {
    NVMError(
      code: .corrupt,
      message:
        "A record is damaged, so this entry cannot be read. Others are not affected; verify() lists all "
        + "damage.", path: region.path, offset: offset.rawValue)
  }

  /// The word-valued value of a slot: in the word itself, or in the record of a long key. Epoch pinned for those.
  @usableFromInline
  func valueWord(head: UInt64, word: UInt64) throws(NVMError) -> UInt64 {
    guard isLong(head) else { return word }
    let record = try checkedRecord(at: Offset(rawValue: word))
    guard record.valueLength == 8 else { throw corruptRecordError(Offset(rawValue: word)) }
    return UInt64(littleEndian: record.value.loadUnaligned(as: UInt64.self))
  }

  /// Looks a word-valued entry up.
  @usableFromInline
  func lookupWord(_ key: SearchKey) throws(NVMError) -> UInt64? {
    guard key.bytes != nil else { return try lookup(key) }
    space.epochs.pin()
    defer { space.epochs.unpin() }
    guard let word = try lookup(key) else { return nil }
    return try valueWord(head: key.head, word: word)
  }
}
