public import NVMBTree
public import NVMRegion

/// The changes of a transaction while ``NVMStore/write(_:)`` runs; valid until its closure returns.
///
/// Not `Sendable`: it belongs to the closure's thread.
public final class StoreTransaction {
  private let store: NVMStore
  /// The trees that it holds, with the changes of each.
  private var tables: [UInt32: ChangeTable] = [:]
  private var isEnded = false

  init(_ store: NVMStore) { self.store = store }

  /// A tree as the transaction sees and changes it.
  ///
  /// The first use for a tree waits for its writers and keeps others out until the transaction ends.
  /// - Throws: `.invalidArgument` for a tree of another store or none, `.closed` when the tree was removed or the
  ///   transaction has ended.
  public subscript<Key: DurableKey, Value: DurableValue>(
    _ tree: DurableBTree<Key, Value>
  ) -> TransactionTree<Key, Value> {
    get throws(NVMError) {
      if isEnded { throw endedError() }
      if let table = tables[tree.number] {
        guard tree.shares(table.tree) else {
          throw NVMError(
            code: .invalidArgument, message: "The tree belongs to another store.", path: store.path)
        }
        return TransactionTree(transaction: self, tree: tree, table: table)
      }
      guard let (known, spare) = store.takeOpenTree(sharedBy: tree) else {
        throw NVMError(
          code: .invalidArgument,
          message: "The tree is not one of this store's open trees. Get it by store.tree(_:of:_:).",
          path: store.path)
      }
      try known.hold()
      let table = spare ?? ChangeTable(known)
      tables[tree.number] = table
      return TransactionTree(transaction: self, tree: tree, table: table)
    }
  }

  /// Whether nothing was changed.
  public var isEmpty: Bool { tables.values.allSatisfy(\.isEmpty) }
  /// The number of keys changed or removed.
  public var count: Int { tables.values.reduce(0) { $0 + $1.count } }

  // MARK: For the views

  @inline(__always)
  @usableFromInline func checkOpen() throws(NVMError) {
    if isEnded { throw endedError() }
  }
  @inline(never)
  private func endedError() -> NVMError {
    NVMError(
      code: .closed, message: "The transaction has ended. Use it only inside of the closure given to write.",
      path: store.path)
  }

  @usableFromInline @inline(never)
  func undecodable<Value: DurableValue>(_ type: Value.Type) -> NVMError {
    NVMError(
      code: .corrupt,
      message:
        "A value that the transaction has stored is not a valid \(Value.durableTypeName): its coding does not "
        + "read what it has written.", path: store.path)
  }

  // MARK: For the store

  /// The changes in the order in which they go in: by tree and key. Valid until ``end()``.
  func takeChanges() -> [TreeChanges] {
    isEnded = true
    return tables.sorted { $0.key < $1.key }.filter { !$0.value.isEmpty }
      .map { TreeChanges(number: $0.key, changes: $0.value.sorted()) }
  }

  /// All trees that it holds, by their numbers.
  var held: [UInt32: EncodedTree] { tables.mapValues(\.tree) }

  func end() {
    isEnded = true
    for (number, table) in tables {
      table.tree.release()
      if table.removeAll() { store.keep(table, forTree: number) }
    }
    tables = [:]
  }
}

extension NVMStore {
  /// The open tree that a handle belongs to, if it is one of this store's, and the table that the last transaction has
  /// left there. With the turn.
  fileprivate func takeOpenTree<Key: DurableKey, Value: DurableValue>(
    sharedBy tree: DurableBTree<Key, Value>
  ) -> (EncodedTree, ChangeTable?)? {
    let number = tree.number
    return state.withLock { state in
      guard let known = state.open[number]?.tree, tree.shares(known) else { return nil }
      let spare = state.open[number]?.spareTable
      state.open[number]?.spareTable = nil
      return (known, spare)
    }
  }

  /// Leaves an empty table to the next transaction. With the turn.
  fileprivate func keep(_ table: ChangeTable, forTree number: UInt32) {
    state.withLock { state in
      if state.open[number]?.tree === table.tree { state.open[number]?.spareTable = table }
    }
  }
}

/// A tree inside of a transaction: reads see the transaction's own changes, changes take hold when it commits.
public struct TransactionTree<Key: DurableKey, Value: DurableValue> {
  @usableFromInline let transaction: StoreTransaction
  @usableFromInline let tree: DurableBTree<Key, Value>
  @usableFromInline let table: ChangeTable

  init(transaction: StoreTransaction, tree: DurableBTree<Key, Value>, table: ChangeTable) {
    (self.transaction, self.tree, self.table) = (transaction, tree, table)
  }

  /// The value stored for a key as the transaction sees it, or nil. O(log n).
  @inlinable
  public func value(forKey key: Key) throws(NVMError) -> Value? {
    try transaction.checkOpen()
    return try key.withKeyBytes { (bytes) throws(NVMError) -> Value? in
      switch table.pending(bytes) {
      case .value(let bytes):
        guard let value = Value(valueBytes: bytes) else { throw transaction.undecodable(Value.self) }
        return value
      case .nothing: return nil
      case .unchanged: return try tree.value(forKey: key)
      }
    }
  }

  /// As ``value(forKey:)``.
  @inlinable
  public subscript(key: Key) -> Value? {
    get throws(NVMError) { try value(forKey: key) }
  }

  /// Whether there is an entry for a key, as the transaction sees it. O(log n).
  @inlinable
  public func contains(_ key: Key) throws(NVMError) -> Bool {
    try transaction.checkOpen()
    return try key.withKeyBytes { (bytes) throws(NVMError) -> Bool in
      switch table.pending(bytes) {
      case .value: return true
      case .nothing: return false
      case .unchanged: return try tree.contains(key)
      }
    }
  }

  /// Stores a value for a key when the transaction commits; returns the one it replaces, or nil. O(log n).
  /// - Throws: `.invalidArgument` for a value that has no encoding, and as ``value(forKey:)``.
  @discardableResult @inlinable
  public func updateValue(_ value: Value, forKey key: Key) throws(NVMError) -> Value? {
    let old = try self.value(forKey: key)
    try setValue(value, forKey: key)
    return old
  }

  /// As ``updateValue(_:forKey:)``, without reading the old value. O(1).
  @inlinable
  public func setValue(_ value: Value, forKey key: Key) throws(NVMError) {
    try transaction.checkOpen()
    try value.withValueBytes { (value) throws(NVMError) in
      key.withKeyBytes { table.set($0, value) }
    }
  }

  /// Removes the entry of a key when the transaction commits; returns its value, or nil where there is none.
  @discardableResult @inlinable
  public func removeValue(forKey key: Key) throws(NVMError) -> Value? {
    guard let old = try value(forKey: key) else { return nil }
    key.withKeyBytes { table.set($0, nil) }
    return old
  }
}
