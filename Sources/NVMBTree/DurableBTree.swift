import CNVM
public import NVMRegion
public import NVMalloc

/// A durable, concurrent, ordered map whose nodes live in a persistent heap.
///
/// Its vocabulary is that of `Dictionary`, and its keys are in order. Every change is durable when the call returns,
/// and atomic: a crash leaves it done or not done. Any number of threads may read and write; a reader never sees a
/// change that a crash could still take back, and takes no lock.
///
/// ```swift
/// let ages = try store.tree("ages", of: String.self, Int.self)
/// try ages.updateValue(41, forKey: "ada")
/// for (name, age) in try ages["a"..<"n"] { print(name, age) }
/// ```
///
/// Opening a tree that is open gives another handle to the same open tree. When the tree or the region is closed,
/// calls throw `.closed`.
public final class DurableBTree<Key: DurableKey, Value: DurableValue>: Sendable {
  @usableFromInline let engine: TreeEngine

  let share: TreeShare

  init(_ share: TreeShare) {
    self.share = share
    engine = share.engine
  }

  /// Makes an empty tree in a heap. Durable on return, but linked from nowhere: the caller links ``handle``, or finds
  /// the blocks again by the owner token `number`. Two fences and those of two allocations.
  ///
  /// - Parameter number: the tree's number, unique in the heap, 1 ..< 2²⁰; the owner token of all its blocks.
  /// - Throws: `.outOfSpace`, `.diskFull`, `.invalidArgument`, and as every change.
  public static func create(
    in heap: PersistentHeap, number: UInt32, options: TreeOptions = TreeOptions()
  ) throws(NVMError) -> DurableBTree {
    DurableBTree(
      try TreeEngine.create(
        in: heap, number: number, keyForm: Key.durableKeyForm.rawValue,
        valueForm: Value.durableValueForm.rawValue,
        keyType: Key.durableTypeName, valueType: Value.durableTypeName, options: options))
  }

  /// Opens the tree whose ``handle`` is given, and recovers it: O(leaves), on all cores.
  ///
  /// Where the chain of leaves is damaged the tree opens for reading only: changes and misses throw `.corrupt`.
  ///
  /// - Parameter progress: called with the share done, from any thread.
  /// - Throws: `.typeMismatch` when it holds other types, `.corrupt` when there is no tree.
  public static func open(
    in heap: PersistentHeap, at handle: Offset, options: TreeOptions = TreeOptions(),
    progress: (@Sendable (Double) -> Void)? = nil
  ) throws(NVMError) -> DurableBTree {
    DurableBTree(
      try TreeEngine.open(
        in: heap, at: handle, keyForm: Key.durableKeyForm.rawValue,
        valueForm: Value.durableValueForm.rawValue,
        keyType: Key.durableTypeName, valueType: Value.durableTypeName, options: options, progress: progress))
  }

  /// Opens the tree linked under a named root of the heap, or makes it. For applications that use the heap without
  /// a store.
  ///
  /// A crash while it is made leaves blocks that the next call finds by their owner and frees: the number is
  /// derived from the name, so a leftover is met again. Thread-safe.
  public convenience init(
    in heap: PersistentHeap, root name: String, options: TreeOptions = TreeOptions()
  ) throws(NVMError) {
    if let handle = try heap.root(named: name) {
      self.init(try Self.open(in: heap, at: handle, options: options).share)
      return
    }
    // Threads meet at the lock only as long as one of them holds its space: the registry does not.
    let space = try TreeSpace.of(heap)
    defer { withExtendedLifetime(space) {} }
    self.init(
      try space.making.withLock { (_) throws(NVMError) -> TreeShare in
        // Another thread was quicker.
        if let handle = try heap.root(named: name) {
          return try Self.open(in: heap, at: handle, options: options).share
        }
        let number = try Self.freeNumber(in: heap, for: name)
        let share = try Self.create(in: heap, number: number, options: options).share
        try heap.setRoot(share.engine.handle, named: name)
        return share
      })
  }

  /// A number that no linked tree has; leftovers of an interrupted creation under it are freed.
  private static func freeNumber(in heap: PersistentHeap, for name: String) throws(NVMError) -> UInt32 {
    var linked = Set<UInt32>()
    for root in heap.rootNames {
      if let handle = try heap.root(named: root), let info = try? heap.info(of: handle), info.tag == .treeRoot
      {
        linked.insert(info.owner.rawValue)
      }
    }
    var number = TreeNumbers.ofRoot(TreeEngine.typeHash(name))
    while linked.contains(number) { number = TreeNumbers.ofRoot(UInt64(number) + 1) }
    try TreeEngine.destroy(number: number, in: heap)
    return number
  }

  /// Frees all blocks of the tree with this number, which nothing must link to or have open any more. Restartable
  /// after a crash. O(blocks in the heap).
  public static func remove(number: UInt32, from heap: PersistentHeap) throws(NVMError) {
    try heap.region.checkWritable()
    try TreeEngine.destroy(number: number, in: heap)
  }

  /// Where the tree's header lies: what to link and to open it by.
  public var handle: Offset { engine.handle }
  /// The owner token of all its blocks.
  public var number: UInt32 { engine.tree }
  /// What opening it found.
  public var recovery: TreeRecovery { engine.recovery }
  /// Figures of this moment. O(extents).
  public var statistics: TreeStatistics { engine.statistics }

  /// The number of entries. O(1). While writers are at work it is approximate: off by no more than what they change in
  /// that moment.
  public var count: Int { engine.count }
  /// Whether there is no entry: ``count`` is 0. Beside writers ``first`` tells for certain.
  public var isEmpty: Bool { engine.count == 0 }

  /// Frees what waited for readers and gives unused space back to the heap. The tree stays usable.
  public func trim() { engine.settle() }

  /// Trims the tree and ends its use, by all handles to it: later calls throw `.closed`. Call it before the heap is
  /// closed. Idempotent. No other thread may be in the middle of a call, or hold a range that it goes on reading.
  public func close() { engine.close() }

  /// Checks every leaf and record against its checksums, the order of keys, and the agreement of chain, inner nodes
  /// and count. O(n). Other threads may go on, and writers wait for the leaf that is looked at; but counts are compared
  /// and lost records found only where nobody writes.
  public func verify() throws(NVMError) -> TreeReport { try engine.verify() }
}

extension DurableBTree {
  /// Calls `body` with the engine's view of a key.
  @inlinable @inline(__always)
  func withSearchKey<R>(_ key: Key, _ body: (SearchKey) throws(NVMError) -> R) throws(NVMError) -> R {
    if Key.durableKeyForm == .word { return try body(SearchKey(head: key.keyHead)) }
    return try key.withKeyBytes { (bytes) throws(NVMError) -> R in
      let head = KeyHead.ofBytes(bytes)
      guard !KeyHead.isWhole(head), let base = bytes.baseAddress else {
        return try body(SearchKey(head: head))
      }
      return try body(SearchKey(head: head, bytes: base, count: bytes.count))
    }
  }

  /// The key in a slot. Epoch pinned where it may be long.
  @inlinable
  func decodeKey(_ head: UInt64, _ word: UInt64) throws(NVMError) -> Key {
    let key: Key? =
      if Key.durableKeyForm == .word || KeyHead.isWhole(head) {
        Key(keyHead: head)
      } else if let long = engine.longKey(head, word) {
        Key(keyBytes: UnsafeRawBufferPointer(start: long.bytes, count: long.count))
      } else {
        nil
      }
    guard let key else { throw undecodable("key", head) }
    return key
  }

  /// The value in a slot. Epoch pinned where it may be in a record.
  @inlinable
  func decodeValue(_ head: UInt64, _ word: UInt64) throws(NVMError) -> Value {
    let value: Value? =
      if Value.durableValueForm == .word {
        Value(valueWord: try engine.valueWord(head: head, word: word))
      } else if let bytes = try engine.recordValue(head: head, word: word) {
        Value(valueBytes: bytes)
      } else {
        withUnsafeBytes(of: SlotValue.bytes(word)) {
          Value(valueBytes: UnsafeRawBufferPointer(rebasing: $0[..<SlotValue.length(word)]))
        }
      }
    guard let value else { throw undecodable("value", head) }
    return value
  }

  @usableFromInline @inline(never)
  func undecodable(_ what: String, _ head: UInt64) -> NVMError {
    NVMError(
      code: .corrupt,
      message:
        "A stored \(what) is not a valid \(what == "key" ? Key.durableTypeName : Value.durableTypeName). "
        + "verify() tells whether it was damaged; otherwise the type's coding has changed.",
      path: engine.region.path)
  }
}
