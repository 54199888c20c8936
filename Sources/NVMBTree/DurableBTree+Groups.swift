public import NVMRegion

// Changes under a persist group. Where the medium is a journal they wait for nothing: the group holds the position of
// its last change, and readers of what is not durable yet wait for theirs. On the other media a leaf's commit needs its
// fence before the leaf may change again, so there these are durable on return and leave nothing outstanding.

extension DurableBTree {
  /// Stores a value for a key; durable when the group is. Each change is all or nothing, and of the changes of one thread a
  /// crash leaves the first so many. Otherwise as ``setValue(_:forKey:)``.
  ///
  /// On a journaled file it costs no wait; on other media the change is durable on return, by a fence of its own.
  /// - Throws: `.invalidArgument` for a group of another file; as ``updateValue(_:forKey:)``.
  @inlinable
  public func setValue(_ value: Value, forKey key: Key, in group: PersistGroup) throws(NVMError) {
    let deferral = try engine.begin(group)
    defer { engine.end(group, deferral) }
    try setValue(value, forKey: key)
  }

  /// Stores a value for a key and returns the one it replaces; durable when the group is. As
  /// ``setValue(_:forKey:in:)``. A value that another thread has just put there is waited for.
  @discardableResult @inlinable
  public func updateValue(_ value: Value, forKey key: Key, in group: PersistGroup) throws(NVMError) -> Value?
  {
    let deferral = try engine.begin(group)
    defer { engine.end(group, deferral) }
    return try updateValue(value, forKey: key)
  }

  /// Removes the entry of a key and returns its value; durable when the group is. As ``setValue(_:forKey:in:)``.
  @discardableResult @inlinable
  public func removeValue(forKey key: Key, in group: PersistGroup) throws(NVMError) -> Value? {
    let deferral = try engine.begin(group)
    defer { engine.end(group, deferral) }
    return try removeValue(forKey: key)
  }
}

extension TreeEngine {
  @usableFromInline func begin(_ group: PersistGroup) throws(NVMError) -> Bool {
    try region.check(group)
    return region.beginDeferral()
  }
  @usableFromInline func end(_ group: PersistGroup, _ deferral: Bool) {
    guard deferral else { return }
    region.endDeferral()
    region.notePosition(in: group)
  }
}
