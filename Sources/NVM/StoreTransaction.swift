public import NVMBTree
public import NVMRegion

/// The changes of a transaction while ``NVMStore/write(_:)`` runs; valid until its closure returns.
///
/// Not `Sendable`: it belongs to the closure's thread.
public final class StoreTransaction {
  private let store: NVMStore
  private(set) var held: [UInt32: EncodedTree] = [:]
  /// What a key comes to hold.
  enum Pending {
    case value([UInt8])
    case nothing
  }
  /// By tree and encoded key.
  private var changes: [UInt32: [[UInt8]: Pending]] = [:]
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
      if held[tree.number] == nil {
        guard let known = store.openTree(sharedBy: tree) else {
          throw NVMError(
            code: .invalidArgument,
            message: "The tree is not one of this store's open trees. Get it by store.tree(_:of:_:).",
            path: store.path)
        }
        try known.hold()
        held[tree.number] = known
      }
      guard let known = held[tree.number], tree.shares(known) else {
        throw NVMError(
          code: .invalidArgument, message: "The tree belongs to another store.", path: store.path)
      }
      return TransactionTree(transaction: self, tree: tree)
    }
  }

  /// Whether nothing was changed.
  public var isEmpty: Bool { changes.values.allSatisfy(\.isEmpty) }
  /// The number of keys changed or removed.
  public var count: Int { changes.values.reduce(0) { $0 + $1.count } }

  // MARK: For the views

  /// The pending change of a key, if any.
  func change(_ tree: UInt32, _ key: [UInt8]) throws(NVMError) -> Pending? {
    if isEnded { throw endedError() }
    return changes[tree]?[key]
  }
  func set(_ tree: UInt32, _ key: [UInt8], _ new: Pending) throws(NVMError) {
    if isEnded { throw endedError() }
    changes[tree, default: [:]][key] = new
  }
  private func endedError() -> NVMError {
    NVMError(
      code: .closed, message: "The transaction has ended. Use it only inside of the closure given to write.",
      path: store.path)
  }

  // MARK: For the store

  /// The changes in the order in which they go in: by tree and key.
  func takeChanges() -> [StoreLog.Change] {
    isEnded = true
    var result: [StoreLog.Change] = []
    for tree in changes.keys.sorted() {
      for (key, new) in changes[tree, default: [:]].sorted(by: { $0.key.lexicographicallyPrecedes($1.key) }) {
        var change = StoreLog.Change(tree: tree, key: key, value: nil)
        if case .value(let bytes) = new { change.value = bytes }
        result.append(change)
      }
    }
    return result
  }

  func end() {
    isEnded = true
    for tree in held.values { tree.release() }
    held = [:]
  }
}

extension NVMStore {
  /// The open tree that a handle belongs to, if it is one of this store's.
  func openTree<Key: DurableKey, Value: DurableValue>(sharedBy tree: DurableBTree<Key, Value>) -> EncodedTree?
  {
    let known = state.withLock { $0.open[tree.number]?.tree }
    guard let known, tree.shares(known) else { return nil }
    return known
  }
}

/// A tree inside of a transaction: reads see the transaction's own changes, changes take hold when it commits.
public struct TransactionTree<Key: DurableKey, Value: DurableValue> {
  let transaction: StoreTransaction
  let tree: DurableBTree<Key, Value>

  /// The value stored for a key as the transaction sees it, or nil. O(log n).
  public func value(forKey key: Key) throws(NVMError) -> Value? {
    switch try transaction.change(tree.number, Self.encode(key)) {
    case .value(let bytes): return bytes.withUnsafeBytes { Value(valueBytes: $0) }
    case .nothing: return nil
    case nil: return try tree.value(forKey: key)
    }
  }

  /// As ``value(forKey:)``.
  public subscript(key: Key) -> Value? {
    get throws(NVMError) { try value(forKey: key) }
  }

  /// Whether there is an entry for a key, as the transaction sees it. O(log n).
  public func contains(_ key: Key) throws(NVMError) -> Bool {
    switch try transaction.change(tree.number, Self.encode(key)) {
    case .value: return true
    case .nothing: return false
    case nil: return try tree.contains(key)
    }
  }

  /// Stores a value for a key when the transaction commits; returns the one it replaces, or nil. O(log n).
  /// - Throws: `.invalidArgument` for a value that has no encoding, and as ``value(forKey:)``.
  @discardableResult
  public func updateValue(_ value: Value, forKey key: Key) throws(NVMError) -> Value? {
    let old = try self.value(forKey: key)
    try setValue(value, forKey: key)
    return old
  }

  /// As ``updateValue(_:forKey:)``, without reading the old value.
  public func setValue(_ value: Value, forKey key: Key) throws(NVMError) {
    let bytes = try value.withValueBytes { (bytes) throws(NVMError) -> [UInt8] in [UInt8](bytes) }
    try transaction.set(tree.number, Self.encode(key), .value(bytes))
  }

  /// Removes the entry of a key when the transaction commits; returns its value, or nil where there is none.
  @discardableResult
  public func removeValue(forKey key: Key) throws(NVMError) -> Value? {
    guard let old = try value(forKey: key) else { return nil }
    try transaction.set(tree.number, Self.encode(key), .nothing)
    return old
  }

  private static func encode(_ key: Key) -> [UInt8] { key.withKeyBytes { [UInt8]($0) } }
}
