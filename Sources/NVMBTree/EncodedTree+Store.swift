package import NVMRegion
package import NVMalloc

// What the store needs of a tree beyond its public face. `package`: the store is another module.

extension EncodedTree {
  /// Opens a tree by the types recorded for it and recovers it.
  package static func open(
    in heap: PersistentHeap, at handle: Offset, keyForm: DurableKeyForm, valueForm: DurableValueForm,
    keyTypeName: String, valueTypeName: String, options: TreeOptions, progress: ((Double) -> Void)?
  ) throws(NVMError) -> EncodedTree {
    let share = try TreeEngine.open(
      in: heap, at: handle, keyForm: keyForm.rawValue, valueForm: valueForm.rawValue, keyType: keyTypeName,
      valueType: valueTypeName, options: options, progress: progress)
    return EncodedTree(share, keyTypeName: keyTypeName, valueTypeName: valueTypeName)
  }

  /// Makes an empty tree that nothing links to.
  package static func create(
    in heap: PersistentHeap, number: UInt32, keyForm: DurableKeyForm, valueForm: DurableValueForm,
    keyTypeName: String, valueTypeName: String, options: TreeOptions
  ) throws(NVMError) -> EncodedTree {
    let share = try TreeEngine.create(
      in: heap, number: number, keyForm: keyForm.rawValue, valueForm: valueForm.rawValue,
      keyType: keyTypeName,
      valueType: valueTypeName, options: options)
    return EncodedTree(share, keyTypeName: keyTypeName, valueTypeName: valueTypeName)
  }

  /// Frees all blocks of a tree that nothing links to any more.
  package static func destroy(number: UInt32, in heap: PersistentHeap) throws(NVMError) {
    try TreeEngine.destroy(number: number, in: heap)
  }

  /// Lets transactions shut writers and readers out. Before the tree is shared.
  package func enableGate() { engine.gate.use() }
  package func hold() throws(NVMError) { try engine.gate.hold() }
  package func release() { engine.gate.release() }
  package func beginApplying() { engine.gate.beginApplying() }
  package func endApplying() { engine.gate.endApplying() }
  /// The end of a held tree that is being removed: later calls throw, and nothing of it is given back twice.
  package func markRemoved() { engine.gate.remove() }
  /// Frees what waited for readers.
  package func settle() { engine.settle() }
  /// Unlinked records that wait for readers.
  package var waitingForReaders: Int { engine.waitingForReaders }
  /// Damage was met: nothing of the tree is changed any more.
  package var isSealed: Bool { engine.isSealed }
}

extension DurableBTree {
  /// A typed handle to an open tree whose recorded types are this handle's.
  package convenience init(sharing tree: EncodedTree) { self.init(tree.share) }
  /// Whether both are handles to one open tree.
  package func shares(_ tree: EncodedTree) -> Bool { engine === tree.engine }
}

extension EncodedTree {
  /// The end of a tree that nobody has seen yet.
  package func markUnused() {
    if (try? engine.gate.hold()) != nil { engine.gate.remove() }
  }
}
