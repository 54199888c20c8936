public import NVMRegion
import NVMalloc

extension DurableBTree {
  // MARK: Reading

  /// The value stored for a key, or nil. O(log n). Flushes nothing, takes no lock; never returns what a crash could
  /// still take back. Thread-safe.
  /// - Throws: `.corrupt` when the entry is damaged, `.closed`.
  @inlinable
  public func value(forKey key: Key) throws(NVMError) -> Value? {
    if Value.durableValueForm == .word {
      let word: UInt64?
      if Key.durableKeyForm == .word {
        word = try engine.lookup(head: key.keyHead)
      } else {
        word = try withSearchKey(key) { (key) throws(NVMError) in try engine.lookupWord(key) }
      }
      guard let word else { return nil }
      guard let value = Value(valueWord: word) else { throw undecodable("value", key.keyHead) }
      return value
    }
    return try withSearchKey(key) { (key) throws(NVMError) in
      try engine.withValueBytes(key) { (bytes) throws(NVMError) -> Value? in
        guard let bytes else { return nil }
        guard let value = Value(valueBytes: bytes) else { throw undecodable("value", key.head) }
        return value
      }
    }
  }

  /// The value stored for a key, or nil. As ``value(forKey:)``.
  @inlinable
  public subscript(key: Key) -> Value? {
    get throws(NVMError) { try value(forKey: key) }
  }

  /// Whether there is an entry for a key. O(log n).
  @inlinable
  public func contains(_ key: Key) throws(NVMError) -> Bool {
    try withSearchKey(key) { (key) throws(NVMError) in
      if key.bytes == nil { return try engine.lookup(key) != nil }
      return try engine.withValueBytes(key) { $0 != nil }
    }
  }

  /// Calls `body` with the encoded value where it lies, without copying; nil where there is no entry. O(log n).
  ///
  /// While `body` runs, the bytes stay as they are, whatever writers do; what they replace is not reused before it
  /// returns. So keep it short: ``TreeStatistics/waitingForReaders`` tells what piles up meanwhile.
  /// - Throws: ``NVMError`` as ``value(forKey:)``, and what `body` throws.
  @inlinable
  public func withBytes<R>(forKey key: Key, _ body: (RawSpan?) throws -> R) throws -> R {
    // What the caller's closure throws passes through calls that throw only NVMError.
    var result: Result<R, any Error>?
    try withSearchKey(key) { (key) throws(NVMError) in
      try engine.withValueBytes(key) { (bytes) throws(NVMError) in
        result = Result {
          if let bytes { return try body(bytes.bytes) }
          return try body(nil)
        }
      }
    }
    return try result!.get()
  }

  // MARK: Writing

  /// Calls `body` with the engine's view of a value: a word, or bytes.
  @inlinable @inline(__always)
  func withStored<R>(
    _ value: Value, _ body: (UInt64, UnsafeRawBufferPointer?) throws(NVMError) -> R
  ) throws(NVMError) -> R {
    if Value.durableValueForm == .word { return try body(value.valueWord, nil) }
    return try value.withValueBytes { (bytes) throws(NVMError) in try body(0, bytes) }
  }

  @inlinable
  func update(_ value: Value, _ key: Key, _ condition: UpdateCondition) throws(NVMError) -> UpdateOutcome {
    if Key.durableKeyForm == .word, Value.durableValueForm == .word, condition == .always {
      return try engine.updateWord(key.keyHead, word: value.valueWord)
    }
    return try withSearchKey(key) { (key) throws(NVMError) in
      try withStored(value) { (word, bytes) throws(NVMError) in
        try engine.update(key, word: word, bytes: bytes, condition: condition)
      }
    }
  }

  /// Stores a value for a key and returns the one it replaces, or nil. Durable on return. O(log n); one fence, two
  /// where the key or value is longer than 7 bytes or a leaf splits. Thread-safe.
  ///
  /// Use ``setValue(_:forKey:)`` where the old value is of no interest and is costly to read.
  /// - Throws: `.outOfSpace`, `.diskFull`, `.tooLarge`, `.readOnly`, `.poisoned`, `.closed`; nothing is changed then,
  ///   except that after a failed sync (`.ioFailure`) the change may or may not be there. `.corrupt` where the old value
  ///   is damaged: the new one is stored then.
  @discardableResult @inlinable
  public func updateValue(_ value: Value, forKey key: Key) throws(NVMError) -> Value? {
    // What is replaced must stay readable until it is decoded.
    let mayBeRecord = Value.durableValueForm != .word || Key.durableKeyForm != .word
    if mayBeRecord { engine.pin() }
    defer { if mayBeRecord { engine.unpin() } }
    guard case .replaced(let word) = try update(value, key, .always) else { return nil }
    return try decodeValue(key.keyHead, word)
  }

  /// Stores a value for a key. As ``updateValue(_:forKey:)``, without reading the old value.
  @inlinable
  public func setValue(_ value: Value, forKey key: Key) throws(NVMError) {
    _ = try update(value, key, .always)
  }

  /// Stores a value unless there is one already. Durable on return. O(log n).
  /// - Returns: whether it was stored.
  @discardableResult @inlinable
  public func insertValue(_ value: Value, forKey key: Key) throws(NVMError) -> Bool {
    if case .inserted = try update(value, key, .absent) { return true }
    return false
  }

  /// Replaces the value of a key by what `transform` makes of it, as one atomic step: nil stands for no entry, on
  /// both sides. Durable on return. `transform` may run several times when other writers interfere, and must not
  /// call into this tree for the same key.
  /// - Returns: the value that is there now.
  /// - Throws: ``NVMError`` as ``updateValue(_:forKey:)``, and what `transform` throws; nothing is changed then.
  @discardableResult @inlinable
  public func updateValue(forKey key: Key, _ transform: (Value?) throws -> Value?) throws -> Value? {
    var new: Value?
    _ = try exchangeValue(forKey: key) { old in
      new = try transform(old)
      return .some(new)
    }
    return new
  }

  /// Replaces the value of a key by what `decide` makes of it, as one atomic step; nothing is written where that is nil.
  /// - Returns: whether `decide` gave something, a value or none.
  @inlinable
  func exchangeValue(forKey key: Key, _ decide: (Value?) throws -> Value??) throws -> Bool {
    // Pinned, a record offset cannot come to mean another record between look and change.
    engine.pin()
    defer { engine.unpin() }
    while true {
      let word = try withSearchKey(key) { (key) throws(NVMError) in try engine.lookup(key) }
      var old: Value?
      if let word { old = try decodeValue(key.keyHead, word) }
      guard let new = try decide(old) else { return false }
      let condition = word.map { UpdateCondition.unchanged($0) } ?? .absent
      let outcome: UpdateOutcome
      if let new {
        outcome = try update(new, key, condition)
      } else if word == nil {
        return true
      } else {
        outcome = try remove(key, condition)
      }
      if case .refused = outcome { continue }
      return true
    }
  }

  /// Stores `desired` where the value now is `expected`; nil stands for no entry, on both sides. One atomic step,
  /// durable on return; where it is not, nothing is written. O(log n).
  /// - Returns: whether it was exchanged.
  @discardableResult @inlinable
  public func compareExchange(
    forKey key: Key, expected: Value?, desired: Value?
  ) throws -> Bool where Value: Equatable {
    try exchangeValue(forKey: key) { old in old == expected ? .some(desired) : nil }
  }

  /// Removes the entry of a key and returns its value, or nil where there is none. Durable on return. O(log n); one
  /// fence, two where leaves merge. Thread-safe.
  /// - Throws: as ``updateValue(_:forKey:)``; `.corrupt` where the old value is damaged: the entry is removed then.
  @discardableResult @inlinable
  public func removeValue(forKey key: Key) throws(NVMError) -> Value? {
    let mayBeRecord = Value.durableValueForm != .word || Key.durableKeyForm != .word
    if mayBeRecord { engine.pin() }
    defer { if mayBeRecord { engine.unpin() } }
    let outcome = try remove(key, .always)
    guard case .replaced(let word) = outcome else { return nil }
    return try decodeValue(key.keyHead, word)
  }

  @inlinable
  func remove(_ key: Key, _ condition: UpdateCondition) throws(NVMError) -> UpdateOutcome {
    if Key.durableKeyForm == .word, Value.durableValueForm == .word, condition == .always {
      return try engine.removeWord(key.keyHead)
    }
    return try withSearchKey(key) { (key) throws(NVMError) in try engine.remove(key, condition: condition) }
  }

  /// Removes all entries. Durable on return; each leaf's part is one atomic step. O(n).
  /// - Returns: how many were removed.
  @discardableResult
  public func removeAll() throws(NVMError) -> Int { try engine.removeAll(from: .start, to: .end) }

  // MARK: Bulk load

  /// Appends entries whose keys ascend and lie above all that are there: full leaves, written past the cache, one
  /// fence for some hundred thousand entries.
  ///
  /// Durable on return. Entries become visible in chunks, each of them all or nothing; a crash or an error leaves the
  /// chunks before it. O(n), bound by the medium's bandwidth.
  /// - Throws: `.invalidArgument` when the keys do not ascend.
  @inlinable
  public func append(contentsOf entries: some Sequence<(Key, Value)>) throws(NVMError) {
    let loader = BulkLoader(engine)
    for (key, value) in entries {
      try withSearchKey(key) { (key) throws(NVMError) in
        try withStored(value) { (word, bytes) throws(NVMError) in
          try loader.add(key, word: word, bytes: bytes)
        }
      }
    }
    try loader.finish()
  }
}

/// Collects a chunk of a bulk load.
@usableFromInline final class BulkLoader {
  private let engine: TreeEngine
  private var entries: [Entry] = []

  @usableFromInline init(_ engine: TreeEngine) {
    self.engine = engine
  }

  deinit {
    // Left over by an error: records that nothing refers to.
    for entry in entries {
      if let record = engine.recordOffset(entry.head, entry.word) { engine.discardPrepared(record) }
    }
  }

  @usableFromInline
  func add(_ key: SearchKey, word: UInt64, bytes: UnsafeRawBufferPointer?) throws(NVMError) {
    if entries.isEmpty { try engine.checkWritable() }
    entries.append(try engine.makeEntry(key, word: word, bytes: bytes))
    if entries.count >= engine.bulkChunk { try finish() }
  }

  @usableFromInline
  func finish() throws(NVMError) {
    if entries.isEmpty { return }
    try engine.append(entries)
    entries.removeAll(keepingCapacity: true)
  }
}

extension TreeEngine {
  @usableFromInline func pin() { space.epochs.pin() }
  @usableFromInline func unpin() { space.epochs.unpin() }
}
