import CNVM
public import NVMRegion

/// A tree seen through the encodings of its keys and values: for code that meets a tree whose Swift types it does
/// not have, as tools, backups and recovery do.
///
/// A key is what ``DurableKey/withKeyBytes(_:)`` hands out, a value what ``DurableValue/withValueBytes(_:)`` does;
/// keys are in the order of their bytes. That bytes are a valid encoding of the tree's types is the caller's part: a
/// typed handle to the same tree reads anything else as `.corrupt`.
///
/// It is the same open tree as a ``DurableBTree`` handle to it, with the same promises. Thread-safe.
public final class EncodedTree: Sendable {
  let engine: TreeEngine
  let share: TreeShare
  /// The recorded name of the key type.
  public let keyTypeName: String
  /// The recorded name of the value type.
  public let valueTypeName: String

  init(_ share: TreeShare, keyTypeName: String, valueTypeName: String) {
    self.share = share
    engine = share.engine
    self.keyTypeName = keyTypeName
    self.valueTypeName = valueTypeName
  }

  /// How keys stand in the tree.
  public var keyForm: DurableKeyForm { engine.keysAreBytes ? .bytes : .word }
  /// How values stand in the tree.
  public var valueForm: DurableValueForm { engine.valuesAreBytes ? .bytes : .word }
  /// The owner token of its blocks.
  public var number: UInt32 { engine.tree }
  /// Where its header lies.
  public var handle: Offset { engine.handle }
  /// The number of entries. O(1).
  public var count: Int { engine.count }
  /// What opening it found.
  public var recovery: TreeRecovery { engine.recovery }
  /// Figures of this moment. O(extents).
  public var statistics: TreeStatistics { engine.statistics }
  /// As ``DurableBTree/verify()``.
  public func verify() throws(NVMError) -> TreeReport { try engine.verify() }

  /// The encoded value of an encoded key, or nil. O(log n).
  public func value(forKey key: [UInt8]) throws(NVMError) -> [UInt8]? {
    try withSearchKey(key) { (key) throws(NVMError) -> [UInt8]? in
      try engine.withValueBytes(key) { (bytes) throws(NVMError) -> [UInt8]? in bytes.map { [UInt8]($0) } }
    }
  }

  /// Stores an encoded value. Durable on return. O(log n).
  /// - Returns: whether the key was not there before.
  @discardableResult
  public func setValue(_ value: [UInt8], forKey key: [UInt8]) throws(NVMError) -> Bool {
    if !engine.valuesAreBytes, value.count != 8 { throw formError("value") }
    let outcome = try withSearchKey(key) { (key) throws(NVMError) -> UpdateOutcome in
      try value.span.withUnsafeBytes { (bytes) throws(NVMError) -> UpdateOutcome in
        if engine.valuesAreBytes {
          return try engine.update(key, word: 0, bytes: bytes, condition: .always)
        }
        let word = bytes.loadUnaligned(as: UInt64.self)
        return try engine.update(key, word: word, bytes: nil, condition: .always)
      }
    }
    if case .inserted = outcome { return true }
    return false
  }

  /// Stores an encoded value, or removes the entry where it is nil. Durable on return. O(log n).
  /// - Returns: the encoded value that was there, or nil.
  @discardableResult
  public func exchangeValue(_ value: [UInt8]?, forKey key: [UInt8]) throws(NVMError) -> [UInt8]? {
    if !engine.valuesAreBytes, let value, value.count != 8 { throw formError("value") }
    // What is replaced must stay readable until it is copied.
    engine.pin()
    defer { engine.unpin() }
    return try withSearchKey(key) { (key) throws(NVMError) -> [UInt8]? in
      let outcome: UpdateOutcome
      if let value {
        outcome = try value.span.withUnsafeBytes { (bytes) throws(NVMError) -> UpdateOutcome in
          if engine.valuesAreBytes {
            return try engine.update(key, word: 0, bytes: bytes, condition: .always)
          }
          return try engine.update(
            key, word: bytes.loadUnaligned(as: UInt64.self), bytes: nil, condition: .always)
        }
      } else {
        outcome = try engine.remove(key, condition: .always)
      }
      guard case .replaced(let word) = outcome else { return nil }
      return try engine.withBytes(head: key.head, word: word) { (bytes) throws(NVMError) -> [UInt8]? in
        bytes.map { [UInt8]($0) }
      }
    }
  }

  /// Removes an entry. Durable on return. O(log n).
  /// - Returns: whether there was one.
  @discardableResult
  public func removeValue(forKey key: [UInt8]) throws(NVMError) -> Bool {
    let outcome = try withSearchKey(key) { (key) throws(NVMError) -> UpdateOutcome in
      try engine.remove(key, condition: .always)
    }
    if case .replaced = outcome { return true }
    return false
  }

  /// Calls `body` with the encoded entries of a range in key order, until it returns false. Other threads may go
  /// on writing; entries that stay throughout are met exactly once.
  ///
  /// - Parameters:
  ///   - lower: where the range starts, itself included; nil for the first key.
  ///   - upper: where it ends, itself excluded; nil for the last key included.
  ///   - reverse: from the upper end to the lower one.
  public func scan(
    from lower: [UInt8]? = nil, to upper: [UInt8]? = nil, reverse: Bool = false,
    _ body: (_ key: [UInt8], _ value: [UInt8]) throws -> Bool
  ) throws {
    let cursor = try withBound(lower, .start) { (lower) throws(NVMError) -> TreeCursor in
      try withBound(upper, .end) { (upper) throws(NVMError) -> TreeCursor in
        TreeCursor(engine, from: lower, to: upper, reverse: reverse)
      }
    }
    try scan(cursor, onDamage: nil, body)
  }

  /// Calls `body` with all encoded entries that can still be read of a damaged tree, in key order, until it returns false:
  /// to rescue what is left.
  ///
  /// Open the tree with ``TreeOptions/verifiesReads``, since else damage may not be seen. Of one whose chain of leaves is
  /// damaged (``TreeRecovery/isSealed``) the entries behind are found by what other leaves say; there, some that were
  /// removed or replaced before may show up again, and if so, before or instead of the newer ones.
  ///
  /// - Parameter onDamage: is told of each damaged place that is passed over.
  /// - Complexity: O(n), and memory for a few words per leaf.
  public func salvage(
    onDamage: (NVMError) -> Void, _ body: (_ key: [UInt8], _ value: [UInt8]) throws -> Bool
  ) throws {
    try withoutActuallyEscaping(onDamage) { onDamage in
      guard engine.isSealed else {
        let cursor = TreeCursor(engine, from: .start, to: .end, reverse: false)
        cursor.onDamage = onDamage
        return try scan(cursor, onDamage: onDamage, body)
      }
      let salvage = try TreeSalvage(engine)
      defer { salvage.deallocate() }
      try salvage.forEach(onDamage: onDamage) { head, word in
        guard let entry = try entry(head, word, onDamage: onDamage) else { return true }
        return try body(entry.key, entry.value)
      }
    }
  }

  private func scan(
    _ cursor: TreeCursor, onDamage: ((NVMError) -> Void)?,
    _ body: (_ key: [UInt8], _ value: [UInt8]) throws -> Bool
  ) throws {
    var entries: [(key: [UInt8], value: [UInt8])] = []
    var isMore = true
    while isMore {
      entries.removeAll(keepingCapacity: true)
      isMore = try cursor.load { (cursor) throws(NVMError) in
        for i in 0..<cursor.count {
          if let entry = try entry(cursor.entries[2 * i], cursor.entries[2 * i + 1], onDamage: onDamage) {
            entries.append(entry)
          }
        }
      }
      for entry in entries {
        guard try body(entry.key, entry.value) else { return }
      }
    }
  }

  /// An entry's encodings; `nil` where it is damaged and that is told of. Epoch pinned, or nobody writes.
  private func entry(
    _ head: UInt64, _ word: UInt64, onDamage: ((NVMError) -> Void)?
  ) throws(NVMError) -> (key: [UInt8], value: [UInt8])? {
    do throws(NVMError) {
      let value = try engine.withBytes(head: head, word: word) { (bytes) throws(NVMError) in
        bytes.map { [UInt8]($0) } ?? []
      }
      return (keyBytes(head, word), value)
    } catch {
      guard let onDamage, error.code == .corrupt else { throw error }
      onDamage(error)
      return nil
    }
  }

  // MARK: Coding

  private func keyBytes(_ head: UInt64, _ word: UInt64) -> [UInt8] {
    if !engine.keysAreBytes { return withUnsafeBytes(of: head.bigEndian) { [UInt8]($0) } }
    if let long = engine.key(head, word), let bytes = long.bytes {
      return [UInt8](UnsafeRawBufferPointer(start: bytes, count: long.count))
    }
    return KeyHead.withBytes(head) { [UInt8]($0) }
  }

  private func withSearchKey<R>(
    _ key: [UInt8], _ body: (SearchKey) throws(NVMError) -> R
  ) throws(NVMError) -> R {
    try key.span.withUnsafeBytes { (bytes) throws(NVMError) -> R in try withSearchKey(bytes, body) }
  }

  @inline(__always)
  func withSearchKey<R>(
    _ bytes: UnsafeRawBufferPointer, _ body: (SearchKey) throws(NVMError) -> R
  ) throws(NVMError) -> R {
    if !engine.keysAreBytes {
      guard bytes.count == 8 else { throw formError("key") }
      return try body(SearchKey(head: UInt64(bigEndian: bytes.loadUnaligned(as: UInt64.self))))
    }
    let head = KeyHead.ofBytes(bytes)
    guard !KeyHead.isWhole(head), let base = bytes.baseAddress else {
      return try body(SearchKey(head: head))
    }
    return try body(SearchKey(head: head, bytes: base, count: bytes.count))
  }

  private func withBound<R>(
    _ key: [UInt8]?, _ missing: Bound, _ body: (Bound) throws(NVMError) -> R
  ) throws(NVMError) -> R {
    guard let key else { return try body(missing) }
    return try withSearchKey(key) { (key) throws(NVMError) in try body(.before(key)) }
  }

  func formError(_ what: String) -> NVMError {
    NVMError(
      code: .invalidArgument,
      message:
        "An encoded \(what) of this tree has 8 bytes (\(what == "key" ? keyTypeName : valueTypeName)).",
      path: engine.region.path)
  }
}
