public import NVMRegion

extension DurableBTree {
  // MARK: Many at once

  @inlinable static var isAllWords: Bool { Value.durableValueForm == .word && Key.durableKeyForm == .word }

  /// The values stored for many keys, in the order of the keys: nil where there is none. For each what
  /// ``value(forKey:)`` gives at some moment of the call, but several times as fast in a tree that exceeds the
  /// processor's caches: keys go side by side, so that their waits for memory overlap. Thread-safe.
  /// - Complexity: O(k log n).
  /// - Throws: as ``value(forKey:)``.
  @inlinable
  public func values(forKeys keys: some Collection<Key>) throws(NVMError) -> [Value?] {
    var values: [Value?] = []
    values.reserveCapacity(keys.count)
    let batch = TreeBatch(engine)
    for key in keys {
      if Key.durableKeyForm == .word {
        batch.add(head: key.keyHead)
      } else {
        try withSearchKey(key) { (key) throws(NVMError) in batch.add(key) }
      }
      if batch.isFull { try flush(batch, to: &values) }
    }
    try flush(batch, to: &values)
    return values
  }

  @inlinable
  func flush(_ batch: TreeBatch, to values: inout [Value?]) throws(NVMError) {
    let mayBeRecord = !Self.isAllWords
    if mayBeRecord { engine.pin() }
    defer {
      if mayBeRecord { engine.unpin() }
      batch.removeAll()
    }
    try batch.lookUp()
    if mayBeRecord {
      for i in 0..<batch.count where batch.found & 1 << UInt32(i) != 0 {
        engine.prefetchRecord(batch.keys[i].head, batch.words[i])
      }
    }
    for i in 0..<batch.count {
      if batch.found & 1 &<< UInt32(i) == 0 {
        values.append(nil)
      } else if mayBeRecord {
        values.append(try decodeValue(batch.keys[i].head, batch.words[i]))
      } else {
        guard let value = Value(valueWord: batch.words[i]) else {
          throw undecodable("value", batch.keys[i].head)
        }
        values.append(value)
      }
    }
  }

  /// Stores many values, in the order given, as ``setValue(_:forKey:)`` does one after the other, but with one fence
  /// for some thirty of them and with their waits for memory overlapping; on a journaled file the disk is waited for
  /// once. Durable on return. Thread-safe.
  ///
  /// Each entry is an atomic step of its own, and the call as a whole is not: a crash leaves any part of its entries
  /// stored, and an error those before some entry of them. For all or nothing see `NVMStore.write`; for many entries
  /// at the end of a tree ``append(contentsOf:)`` is faster.
  /// - Complexity: O(k log n).
  /// - Returns: how many keys were not there before.
  /// - Throws: as ``updateValue(_:forKey:)``.
  @discardableResult @inlinable
  public func updateValues(_ entries: some Sequence<(Key, Value)>) throws(NVMError) -> Int {
    let deferral = engine.beginDeferral()
    let batch = TreeBatch(engine)
    var inserted = 0
    do throws(NVMError) {
      for (key, value) in entries {
        try withSearchKey(key) { (key) throws(NVMError) in
          batch.add(key)
          try withStored(value) { (word, bytes) throws(NVMError) in
            try batch.prepareLast(word: word, bytes: bytes)
          }
        }
        if batch.isFull { inserted += try batch.update() }
      }
      inserted += try batch.update()
    } catch {
      batch.discardLoose()
      if deferral { engine.endDeferral() }
      throw error
    }
    if deferral { engine.endDeferral() }
    try engine.acknowledge()
    return inserted
  }
}
