public import NVMRegion

/// A place in a tree in key order, which steps in both directions.
///
/// ```swift
/// let cursor = tree.makeCursor()
/// var entry = try cursor.seek(to: "m")         // the first entry not below "m"
/// while let (name, age) = entry { …; entry = try cursor.next() }
/// ```
///
/// A cursor stands on an entry, before the first, or behind the last one; a new one stands before the first. Writers
/// may go on meanwhile: a step leads to the next key, whatever has happened to the one it stands on. Between steps it
/// holds no lock. A step costs O(1) on average as long as the direction stays, O(log n) when it turns.
///
/// Not thread-safe: one cursor belongs to one task at a time.
public final class DurableCursor<Key: DurableKey, Value: DurableValue> {
  @usableFromInline enum Place {
    case start
    case end
    case at(Key)
  }

  @usableFromInline let tree: DurableBTree<Key, Value>
  @usableFromInline var place = Place.start
  /// The walk under way and its direction.
  @usableFromInline var walk: DurableRange<Key, Value>.Iterator?
  @usableFromInline var isForward = true
  /// The entry that the cursor stood on when it was read, or nil at either end.
  public fileprivate(set) var current: (key: Key, value: Value)?

  init(_ tree: DurableBTree<Key, Value>) { self.tree = tree }

  /// Stands on the first entry whose key is not below `key`, or behind the last one. O(log n).
  /// - Returns: that entry, or nil.
  /// - Throws: `.corrupt` for a damaged entry, `.closed`; the cursor then stays where it was.
  @discardableResult
  public func seek(to key: Key) throws(NVMError) -> (key: Key, value: Value)? {
    try move(DurableRange(tree, from: .before(key), to: .end), forward: true)
  }

  /// Stands on the last entry whose key is below `key`, or before the first one. As ``seek(to:)``.
  @discardableResult
  public func seek(before key: Key) throws(NVMError) -> (key: Key, value: Value)? {
    try move(DurableRange(tree, from: .start, to: .before(key)), forward: false)
  }

  /// Stands on the first entry, or behind the last place in an empty tree. O(log n).
  @discardableResult
  public func seekToFirst() throws(NVMError) -> (key: Key, value: Value)? {
    try move(DurableRange(tree, from: .start, to: .end), forward: true)
  }

  /// Stands on the last entry, or before the first place in an empty tree. O(log n).
  @discardableResult
  public func seekToLast() throws(NVMError) -> (key: Key, value: Value)? {
    try move(DurableRange(tree, from: .start, to: .end), forward: false)
  }

  /// Steps to the next entry in key order. Behind the last one it stays there.
  /// - Returns: that entry, or nil.
  /// - Throws: as ``seek(to:)``.
  @discardableResult
  public func next() throws(NVMError) -> (key: Key, value: Value)? {
    if isForward, walk != nil { return try step() }
    switch place {
    case .start: return try seekToFirst()
    case .end: return nil
    case .at(let key): return try move(DurableRange(tree, from: .after(key), to: .end), forward: true)
    }
  }

  /// Steps to the entry before. Before the first one it stays there. As ``next()``.
  @discardableResult
  public func previous() throws(NVMError) -> (key: Key, value: Value)? {
    if !isForward, walk != nil { return try step() }
    switch place {
    case .start: return nil
    case .end: return try seekToLast()
    case .at(let key): return try move(DurableRange(tree, from: .start, to: .before(key)), forward: false)
    }
  }

  private func move(
    _ range: DurableRange<Key, Value>, forward: Bool
  ) throws(NVMError) -> (key: Key, value: Value)? {
    try tree.engine.checkUsable()
    var fresh = (forward ? range : range.reversed()).makeIterator()
    let entry = try fresh.nextEntry()
    walk = fresh
    isForward = forward
    return arrive(entry)
  }

  private func step() throws(NVMError) -> (key: Key, value: Value)? {
    do throws(NVMError) {
      return arrive(try walk?.nextEntry())
    } catch {
      // It has gone past what it could not give: the next step starts from the cursor's own place.
      walk = nil
      throw error
    }
  }

  private func arrive(_ entry: (key: Key, value: Value)?) -> (key: Key, value: Value)? {
    current = entry
    if let entry {
      place = .at(entry.key)
    } else {
      // A walk that has ended does not go on, even where entries were added behind it.
      walk = nil
      place = isForward ? .end : .start
    }
    return entry
  }
}

extension DurableBTree {
  /// A cursor that stands before the first entry. O(1).
  public func makeCursor() -> DurableCursor<Key, Value> { DurableCursor(self) }
}
