public import NVMBTree
public import NVMRegion
import NVMalloc

/// A tree of a store, as the catalogue has it.
public struct StoredTree: Sendable, Hashable {
  public let name: String
  /// The recorded name of the key type, ``DurableType/durableTypeName``.
  public let keyTypeName: String
  /// The recorded name of the value type.
  public let valueTypeName: String
  /// The owner token of its blocks.
  public let number: UInt32
  /// The number of entries.
  public let count: Int
}

extension NVMStore {
  /// Most bytes of UTF-8 in the name of a tree.
  public static let longestTreeName = 255

  /// The tree of this name: opened, or made where there is none. Each name has one open tree; asked again, the
  /// same handle is returned.
  ///
  /// The first call for a tree recovers it, O(leaves); later ones are O(1). A tree that is made is in the catalogue,
  /// durably, when the call returns; a crash before leaves nothing of it.
  ///
  /// - Parameters:
  ///   - name: 1 to 255 bytes of UTF-8. Names that Swift takes for equal, whatever their normalization, are one.
  ///   - progress: called with the share of the recovery done, from any thread.
  /// - Throws: `.typeMismatch` when it holds other types, `.invalidArgument` for a bad name, `.corrupt`, `.outOfSpace`,
  ///   `.diskFull`, `.readOnly` when it would have to be made in a store opened read-only, `.closed`.
  public func tree<Key: DurableKey, Value: DurableValue>(
    _ name: String, of key: Key.Type = Key.self, _ value: Value.Type = Value.self,
    progress: (@Sendable (Double) -> Void)? = nil
  ) throws(NVMError) -> DurableBTree<Key, Value> {
    try state.withLock { (state) throws(NVMError) -> DurableBTree<Key, Value> in
      try checkUsable(state)
      let tree: EncodedTree
      if let entry = state.entries[name] {
        try check(name, entry, Key.self, Value.self)
        tree = try openTree(name, entry, &state, progress)
      } else {
        tree = try makeTree(
          name, keyForm: Key.durableKeyForm, valueForm: Value.durableValueForm,
          keyTypeName: Key.durableTypeName,
          valueTypeName: Value.durableTypeName, &state)
      }
      // Types that are recorded alike, as Int and Int64, have a handle each to the one open tree.
      let id = ObjectIdentifier(DurableBTree<Key, Value>.self)
      if let handle = state.open[tree.number]?.handles[id] as? DurableBTree<Key, Value> { return handle }
      let handle = DurableBTree<Key, Value>(sharing: tree)
      state.open[tree.number]?.handles[id] = handle
      return handle
    }
  }

  /// The tree of this name, whatever its types are.
  /// - Throws: `.notFound`, `.corrupt`, `.closed`.
  public func encodedTree(
    named name: String, progress: (@Sendable (Double) -> Void)? = nil
  ) throws(NVMError) -> EncodedTree {
    try state.withLock { (state) throws(NVMError) -> EncodedTree in
      try checkUsable(state)
      guard let entry = state.entries[name] else { throw unknownTree(name, state) }
      return try openTree(name, entry, &state, progress)
    }
  }

  /// Whether there is a tree of this name. O(1).
  public func hasTree(named name: String) -> Bool { state.withLock { $0.entries[name] != nil } }

  /// The names of all trees, sorted. O(trees).
  public var treeNames: [String] { state.withLock { $0.entries.keys.sorted() } }

  /// All trees by name, with their types and counts. Opens those that nobody has asked for yet.
  public var trees: [StoredTree] {
    get throws(NVMError) {
      try state.withLock { (state) throws(NVMError) -> [StoredTree] in
        try checkUsable(state)
        var result: [StoredTree] = []
        for (name, entry) in state.entries {
          let tree = try openTree(name, entry, &state)
          result.append(
            StoredTree(
              name: name, keyTypeName: entry.keyTypeName, valueTypeName: entry.valueTypeName,
              number: entry.number,
              count: tree.count))
        }
        return result.sorted { $0.name < $1.name }
      }
    }
  }

  /// Removes a tree with all its entries: durable on return, and one atomic step. Handles to it throw `.closed` from
  /// then on. Waits for its writers; no thread may be reading from it. O(blocks of the heap).
  ///
  /// - Throws: `.notFound`, `.readOnly`, `.closed`, `.invalidArgument` inside of a transaction.
  public func removeTree(named name: String) throws(NVMError) {
    try turn.lock("A tree cannot be removed inside of a transaction.")
    defer { turn.unlock() }
    try state.withLock { (state) throws(NVMError) in
      try checkUsable(state)
      try region.checkWritable()
      guard let index = state.entries.index(forKey: name) else { throw unknownTree(name, state) }
      // As the catalogue spells it: names that are equal may differ in their normalization, and there bytes count.
      let (name, entry) = state.entries[index]
      let tree = state.open[entry.number]?.tree
      try tree?.hold()
      do throws(NVMError) {
        tree?.settle()
        try catalogue.setValue(.work(on: entry.number), forKey: CatalogueEntry.workName)
        try catalogue.removeValue(forKey: name)
      } catch {
        tree?.release()
        throw error
      }
      tree?.markRemoved()
      state.entries[name] = nil
      state.open[entry.number] = nil
      state.removedNumbers.insert(entry.number)
      // It is gone; what a failure here leaves is freed by the next opening.
      try EncodedTree.destroy(number: entry.number, in: heap)
      try catalogue.removeValue(forKey: CatalogueEntry.workName)
    }
  }

  // MARK: Within the state's lock

  /// The open tree of an entry; opens it where nobody has yet.
  func openTree(
    _ name: String, _ entry: CatalogueEntry, _ state: inout State, _ progress: ((Double) -> Void)? = nil
  ) throws(NVMError) -> EncodedTree {
    if let known = state.open[entry.number] { return known.tree }
    let tree = try Self.open(entry, in: heap, options.tree, progress)
    state.open[entry.number] = OpenTree(tree: tree)
    return tree
  }

  /// Makes a tree without an owner, then enters it in the catalogue: the atomic step.
  func makeTree(
    _ name: String, keyForm: DurableKeyForm, valueForm: DurableValueForm, keyTypeName: String,
    valueTypeName: String,
    _ state: inout State
  ) throws(NVMError) -> EncodedTree {
    try region.checkWritable()
    guard (1...Self.longestTreeName).contains(name.utf8.count) else {
      throw NVMError(
        code: .invalidArgument,
        message: "The name of a tree has 1 to \(Self.longestTreeName) bytes of UTF-8; this one has "
          + "\(name.utf8.count).", path: path)
    }
    let number = try freeNumber(&state)
    try catalogue.setValue(.work(on: number), forKey: CatalogueEntry.workName)
    do throws(NVMError) {
      let tree = try EncodedTree.create(
        in: heap, number: number, keyForm: keyForm, valueForm: valueForm, keyTypeName: keyTypeName,
        valueTypeName: valueTypeName, options: options.tree)
      let entry = CatalogueEntry(
        keyForm: keyForm, valueForm: valueForm, number: number, handle: tree.handle, keyTypeName: keyTypeName,
        valueTypeName: valueTypeName)
      do throws(NVMError) {
        try catalogue.setValue(entry, forKey: name)
      } catch {
        tree.markUnused()
        try EncodedTree.destroy(number: number, in: heap)
        throw error
      }
      tree.enableGate()
      state.entries[name] = entry
      state.open[number] = OpenTree(tree: tree)
      try catalogue.removeValue(forKey: CatalogueEntry.workName)
      return tree
    } catch {
      // As far as the medium lets us; the next opening does the rest.
      _ = try? catalogue.removeValue(forKey: CatalogueEntry.workName)
      throw error
    }
  }

  private func freeNumber(_ state: inout State) throws(NVMError) -> UInt32 {
    let largest = TreeNumbers.ofStores.upperBound
    if state.lastNumber < largest {
      state.lastNumber += 1
      return state.lastNumber
    }
    let used = Set(state.entries.values.map(\.number)).union(state.removedNumbers)
    guard let number = (CatalogueEntry.treeNumber + 1...largest).first(where: { !used.contains($0) }) else {
      throw NVMError(
        code: .outOfSpace, message: "The store has no more numbers for trees. Remove some, and open it anew.",
        path: path)
    }
    return number
  }

  private func check<Key: DurableKey, Value: DurableValue>(
    _ name: String, _ entry: CatalogueEntry, _ key: Key.Type, _ value: Value.Type
  ) throws(NVMError) {
    guard entry.keyTypeName == Key.durableTypeName, entry.valueTypeName == Value.durableTypeName,
      entry.keyForm == Key.durableKeyForm, entry.valueForm == Value.durableValueForm
    else {
      throw NVMError(
        code: .typeMismatch,
        message: "The tree \"\(name)\" holds \(entry.keyTypeName) → \(entry.valueTypeName), not "
          + "\(Key.durableTypeName) → \(Value.durableTypeName). Open it with the types it was made with, or choose "
          + "another name.", path: path)
    }
  }

  private func unknownTree(_ name: String, _ state: borrowing State) -> NVMError {
    let names = state.entries.keys.sorted().prefix(10).map { "\"\($0)\"" }.joined(separator: ", ")
    return NVMError(
      code: .notFound,
      message: "There is no tree \"\(name)\" in the store. "
        + (names.isEmpty ? "It has none yet." : "It has \(names)\(state.entries.count > 10 ? ", …" : "")."),
      path: path)
  }
}
