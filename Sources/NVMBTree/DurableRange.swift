public import NVMRegion

/// A range of a tree in key order: a lazy sequence of its entries, forward or (by ``reversed()``) backward.
///
/// Writers may go on meanwhile: every entry that stays throughout is seen exactly once and in order; one that is
/// inserted, changed or removed meanwhile may be seen either way.
///
/// A `for` loop cannot throw. Should a record turn out to be damaged, or the store be closed, the loop ends there and
/// ``failure`` tells: look at it after the loop, or use ``forEach(_:)``, which throws.
@frozen public struct DurableRange<Key: DurableKey, Value: DurableValue>: Sequence {
  public typealias Element = (key: Key, value: Value)

  @usableFromInline let tree: DurableBTree<Key, Value>
  @usableFromInline let lower: RangeBound<Key>
  @usableFromInline let upper: RangeBound<Key>
  @usableFromInline let isReverse: Bool
  @usableFromInline let status = RangeStatus()

  @inlinable
  init(
    _ tree: DurableBTree<Key, Value>, from lower: RangeBound<Key>, to upper: RangeBound<Key>,
    reverse: Bool = false
  ) {
    self.tree = tree
    self.lower = lower
    self.upper = upper
    isReverse = reverse
  }

  /// Why the last iteration ended before its end; nil when it did not.
  @inlinable public var failure: NVMError? { status.failure }

  /// The same range from its other end.
  @inlinable
  public func reversed() -> DurableRange {
    DurableRange(tree, from: lower, to: upper, reverse: !isReverse)
  }

  // Gives what it holds to the iterator: where the range is not used again, no reference is counted anew.
  @inlinable
  public consuming func makeIterator() -> Iterator {
    status.clear()
    return Iterator(self)
  }

  @inlinable
  func makeCursor() -> TreeCursor {
    lower.withBound { lower in
      upper.withBound { upper in TreeCursor(tree.engine, from: lower, to: upper, reverse: isReverse) }
    }
  }

  public var underestimatedCount: Int { 0 }

  /// Calls `body` with each entry; throws where a `for` loop would end early.
  @inlinable
  public func forEach(_ body: (Element) throws -> Void) throws {
    var iterator = makeIterator()
    while let entry = try iterator.nextEntry() { try body(entry) }
  }

  /// Calls `body` with the encoded key and value of each entry where they lie, without copying, until it returns false.
  /// The quickest way through entries that are longer than a word: nothing is allocated or decoded. Begins with
  /// O(log n).
  ///
  /// A key that is an integer is given as eight bytes, highest first, which sort as the keys do; a value that is one
  /// lowest first. The bytes are valid until `body` returns: whatever writers do, what they replace is not reused
  /// before, so keep it short (``TreeStatistics/waitingForReaders``). No lock is held: `body` may use the tree.
  /// Thread-safe; flushes nothing.
  /// - Throws: `.corrupt` for a damaged entry, `.closed`, `.forked`, `.poisoned`, and what `body` throws.
  @inlinable
  public func forEachBytes(_ body: (_ key: RawSpan, _ value: RawSpan) throws -> Bool) throws {
    status.clear()
    let cursor = makeCursor()
    while try cursor.loadPinned() {
      defer { cursor.unpin() }
      for i in 0..<cursor.count {
        let entry = try cursor.bytes(ofEntry: i)
        let key = UnsafeRawBufferPointer(start: entry.key, count: entry.keyCount)
        let value = UnsafeRawBufferPointer(start: entry.value, count: entry.valueCount)
        guard try body(key.bytes, value.bytes) else { return }
      }
    }
  }

  /// Walks the entries. Holds no lock between steps.
  @frozen public struct Iterator: IteratorProtocol {
    @usableFromInline let tree: DurableBTree<Key, Value>
    @usableFromInline let cursor: TreeCursor
    /// Entries with records are decoded a leaf at a time, while their records are held.
    @usableFromInline var decoded: [Element] = []
    /// The next entry of the leaf under way, and their number. Not the cursor's: a loop has them in registers.
    @usableFromInline var position = 0
    @usableFromInline var count = 0
    @usableFromInline let status: RangeStatus

    @inlinable
    init(_ range: consuming DurableRange) {
      cursor = range.makeCursor()
      tree = range.tree
      status = range.status
    }

    @inlinable static var isInline: Bool { Key.durableKeyForm == .word && Value.durableValueForm == .word }

    /// The next entry, nil at the end.
    /// - Throws: `.corrupt` for a damaged entry, `.closed`.
    @inlinable
    public mutating func nextEntry() throws(NVMError) -> Element? {
      if Self.isInline {
        if position == count {
          (position, count) = (0, 0)
          guard try cursor.load() else { return nil }
          count = cursor.count
        }
        let head = cursor.entries[2 &* position]
        let word = cursor.entries[2 &* position &+ 1]
        position &+= 1
        guard let key = Key(keyHead: head) else { throw tree.undecodable("key", head) }
        guard let value = Value(valueWord: word) else { throw tree.undecodable("value", head) }
        return (key, value)
      }
      if position == count { guard try decodeNextLeaf() else { return nil } }
      position &+= 1
      return decoded[position &- 1]
    }

    // Inlinable, so that it is compiled for the types: without, each entry asks for metadata at run time.
    @inlinable
    mutating func decodeNextLeaf() throws(NVMError) -> Bool {
      decoded.removeAll(keepingCapacity: true)
      (position, count) = (0, 0)
      guard try cursor.loadPinned() else { return false }
      var isWhole = false
      defer {
        cursor.unpin()
        // Of a leaf with a damaged entry none is given.
        if !isWhole { decoded.removeAll(keepingCapacity: true) }
      }
      decoded.reserveCapacity(cursor.count)
      for i in 0..<cursor.count {
        let head = cursor.entries[2 &* i]
        let word = cursor.entries[2 &* i &+ 1]
        decoded.append((try tree.decodeKey(head, word), try tree.decodeValue(head, word)))
      }
      isWhole = true
      count = decoded.count
      return true
    }

    @inlinable
    public mutating func next() -> Element? {
      do throws(NVMError) {
        return try nextEntry()
      } catch {
        note(error)
        return nil
      }
    }

    @usableFromInline @inline(never)
    func note(_ error: NVMError) { status.failure = error }
  }
}

/// Shared by a sequence and its iterators.
@usableFromInline final class RangeStatus {
  // Of one task at a time. (Written out, it has no initial value, which would be stored by a call.)
  @exclusivity(unchecked) @usableFromInline var failure: Optional<NVMError>
  @inlinable init() { failure = nil }
  @inlinable func clear() { if failure != nil { failure = nil } }
}

/// An end of a range of keys.
@usableFromInline @frozen enum RangeBound<Key: DurableKey>: Sendable {
  case start
  case end
  case before(Key)
  case after(Key)

  /// The least head that a range from here on can have, of keys that are words; nil where there is none.
  @inlinable var firstHead: UInt64? {
    switch self {
    case .start: 0
    case .end: nil
    case .before(let key): key.keyHead
    case .after(let key): key.keyHead == .max ? nil : key.keyHead &+ 1
    }
  }

  @inlinable
  func withBound<R>(_ body: (Bound) -> R) -> R {
    func search(_ key: Key, _ body: (SearchKey) -> R) -> R {
      if Key.durableKeyForm == .word { return body(SearchKey(head: key.keyHead)) }
      return key.withKeyBytes { bytes in
        let head = KeyHead.ofBytes(bytes)
        guard !KeyHead.isWhole(head), let base = bytes.baseAddress else { return body(SearchKey(head: head)) }
        return body(SearchKey(head: head, bytes: base, count: bytes.count))
      }
    }
    switch self {
    case .start: return body(.start)
    case .end: return body(.end)
    case .before(let key): return search(key) { body(.before($0)) }
    case .after(let key): return search(key) { body(.after($0)) }
    }
  }
}

extension DurableBTree {
  @inlinable
  func checkedRange(_ lower: RangeBound<Key>, _ upper: RangeBound<Key>) throws(NVMError)
    -> DurableRange<Key, Value>
  {
    try engine.checkUsable()
    return DurableRange(self, from: lower, to: upper)
  }

  /// The entries from `lower` up to but without `upper`; nil leaves that end open. In the keys' durable order, which
  /// for strings is that of their UTF-8 bytes. O(log n) to begin.
  @inlinable
  public func range(from lower: Key?, to upper: Key?) throws(NVMError) -> DurableRange<Key, Value> {
    try checkedRange(lower.map { .before($0) } ?? .start, upper.map { .before($0) } ?? .end)
  }

  /// All entries.
  public subscript(_: UnboundedRange) -> DurableRange<Key, Value> {
    @inlinable get throws(NVMError) { try checkedRange(.start, .end) }
  }

  /// The first entry in key order, or nil. O(log n).
  public var first: (key: Key, value: Value)? {
    @inlinable get throws(NVMError) { try nearest(.start) }
  }
  /// The last entry in key order, or nil. O(log n).
  public var last: (key: Key, value: Value)? {
    @inlinable get throws(NVMError) { try nearest(.start, reverse: true) }
  }
  /// The first entry whose key is not below `key`, or nil. O(log n).
  @inlinable
  public func lowerBound(_ key: Key) throws(NVMError) -> (key: Key, value: Value)? {
    try nearest(.before(key))
  }
  /// The first entry whose key is above `key`, or nil. O(log n).
  @inlinable
  public func upperBound(_ key: Key) throws(NVMError) -> (key: Key, value: Value)? {
    try nearest(.after(key))
  }

  /// The first entry of a range that is open at its upper end, or the last one of a whole tree. Fetches and decodes no other.
  @inlinable
  func nearest(_ lower: RangeBound<Key>, reverse: Bool = false) throws(NVMError) -> (key: Key, value: Value)?
  {
    if Key.durableKeyForm == .word, Value.durableValueForm == .word,
      let head = reverse ? .max : lower.firstHead, let found = try engine.nearest(head, below: reverse)
    {
      return (try decodeKey(found.head, found.word), try decodeValue(found.head, found.word))
    }
    try engine.checkUsable()
    let cursor = lower.withBound { lower in
      TreeCursor(engine, from: lower, to: .end, reverse: reverse, isShort: true)
    }
    guard try cursor.loadPinned() else { return nil }
    defer { cursor.unpin() }
    let (head, word) = (cursor.entries[0], cursor.entries[1])
    return (try decodeKey(head, word), try decodeValue(head, word))
  }

  /// Removes the entries from `lower` up to but without `upper`; nil leaves that end open. Durable on return; each
  /// leaf's part is one atomic step. O(log n + entries removed).
  /// - Returns: how many were removed.
  @discardableResult
  public func removeAll(from lower: Key?, to upper: Key?) throws(NVMError) -> Int {
    try remove(lower.map { .before($0) } ?? .start, upper.map { .before($0) } ?? .end)
  }

  private func remove(_ lower: RangeBound<Key>, _ upper: RangeBound<Key>) throws(NVMError) -> Int {
    let result: Result<Int, NVMError> = lower.withBound { lower in
      upper.withBound { upper in
        do throws(NVMError) {
          return .success(try engine.removeAll(from: lower, to: upper))
        } catch {
          return .failure(error)
        }
      }
    }
    return try result.get()
  }
}

extension DurableBTree where Key: Comparable {
  /// The entries of a range of keys, in the keys' durable order (for strings that of their UTF-8 bytes). O(log n) to
  /// begin. Thread-safe.
  /// - Throws: `.closed`, `.forked`, `.poisoned`.
  public subscript(range: Range<Key>) -> DurableRange<Key, Value> {
    @inlinable get throws(NVMError) { try checkedRange(.before(range.lowerBound), .before(range.upperBound)) }
  }
  /// The entries of a range of keys, both ends included; order, cost and errors as for a half-open range.
  public subscript(range: ClosedRange<Key>) -> DurableRange<Key, Value> {
    @inlinable get throws(NVMError) { try checkedRange(.before(range.lowerBound), .after(range.upperBound)) }
  }
  /// The entries of a range of keys, from a key on; order, cost and errors as for a half-open range.
  public subscript(range: PartialRangeFrom<Key>) -> DurableRange<Key, Value> {
    @inlinable get throws(NVMError) { try checkedRange(.before(range.lowerBound), .end) }
  }
  /// The entries of a range of keys, below a key; order, cost and errors as for a half-open range.
  public subscript(range: PartialRangeUpTo<Key>) -> DurableRange<Key, Value> {
    @inlinable get throws(NVMError) { try checkedRange(.start, .before(range.upperBound)) }
  }
  /// The entries of a range of keys, up to a key, which is included; order, cost and errors as for a half-open range.
  public subscript(range: PartialRangeThrough<Key>) -> DurableRange<Key, Value> {
    @inlinable get throws(NVMError) { try checkedRange(.start, .after(range.upperBound)) }
  }

  /// Removes the entries of a range of keys; as ``removeAll(from:to:)``.
  @discardableResult
  public func removeAll(in range: Range<Key>) throws(NVMError) -> Int {
    try remove(.before(range.lowerBound), .before(range.upperBound))
  }
  /// Removes the entries of a range of keys, both ends included; as ``removeAll(from:to:)``.
  @discardableResult
  public func removeAll(in range: ClosedRange<Key>) throws(NVMError) -> Int {
    try remove(.before(range.lowerBound), .after(range.upperBound))
  }
  /// Removes the entries of a range of keys, from a key on; as ``removeAll(from:to:)``.
  @discardableResult
  public func removeAll(in range: PartialRangeFrom<Key>) throws(NVMError) -> Int {
    try remove(.before(range.lowerBound), .end)
  }
  /// Removes the entries of a range of keys, below a key; as ``removeAll(from:to:)``.
  @discardableResult
  public func removeAll(in range: PartialRangeUpTo<Key>) throws(NVMError) -> Int {
    try remove(.start, .before(range.upperBound))
  }
  /// Removes the entries of a range of keys, up to a key, which is included; as ``removeAll(from:to:)``.
  @discardableResult
  public func removeAll(in range: PartialRangeThrough<Key>) throws(NVMError) -> Int {
    try remove(.start, .after(range.upperBound))
  }
}
