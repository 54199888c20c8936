import CNVM
public import NVMRegion

// Changes under a persist group. They wait for nothing: on a journal the group holds the position of its last change, on
// other media the lines (TreeEngine+Journal). Readers of what is not durable yet settle it first.

extension DurableBTree {
  /// Stores a value for a key; durable when the group is. Each change is all or nothing. Of the changes of one thread a
  /// crash leaves the first so many on a journaled file; on other media any, but of those to one key the first so many.
  /// Otherwise as ``setValue(_:forKey:)``.
  ///
  /// It costs no wait, save on media other than a journaled file: one fence where a record has to be durable before the
  /// entry that names it, where a leaf splits or takes in its neighbour, and where the leaf has a change outstanding
  /// already (that one, and all else of its thread, is settled by it).
  ///
  /// The coding of `key` and `value` runs within the call. It may not change anything in the same file: what it changed
  /// would belong to the group, and be durable when the group is, whichever call it had used.
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
    if journal != nil { return region.beginDeferral() }
    if !isMarked { nvm_store_release(marksWord, 1) }
    return region.beginGroupSpan(group)
  }
  @usableFromInline func end(_ group: PersistGroup, _ deferral: Bool) {
    guard deferral else { return }
    guard journal != nil else { return region.endGroupSpan() }
    region.endDeferral()
    region.notePosition(in: group)
  }
}
