import CNVM
package import NVMRegion
package import NVMalloc

// What a store needs to read what is left of it when it is damaged (NVM/StoreSalvage.swift).

extension EncodedTree {
  /// A tree whose leaves are read without its header, for ``salvage(onDamage:_:)`` alone: all else throws. O(1).
  ///
  /// - Parameter handle: where the header may lie; if it is whole, the first leaf is taken from it.
  package static func openLeaves(
    in heap: PersistentHeap, number: UInt32, at handle: Offset = .null, keyForm: DurableKeyForm,
    valueForm: DurableValueForm, keyTypeName: String, valueTypeName: String, options: TreeOptions
  ) throws(NVMError) -> EncodedTree {
    let header = TreeHeader(
      tree: number, keyForm: keyForm.rawValue, valueForm: valueForm.rawValue,
      firstLeaf: TreeHeader.read(heap, at: handle).flatMap { $0.tree == number ? $0.firstLeaf : nil } ?? 0,
      keyType: 0, valueType: 0)
    let engine = TreeEngine(
      heap: heap, space: try TreeSpace.of(heap), header: header, handle: handle, options: options)
    engine.seal(
      "The header of tree \(number) cannot be relied on; its leaves are put together by their links.")
    return EncodedTree(TreeShare(engine), keyTypeName: keyTypeName, valueTypeName: valueTypeName)
  }

  /// Calls `body` with key and value of each record that is whole, in the order of offsets. The key is empty where it
  /// stands in a leaf, being short. O(blocks of the heap).
  /// - Throws: `.corrupt` at the end where headers of blocks were damaged.
  package func forEachRecord(_ body: (_ key: [UInt8], _ value: [UInt8]) -> Void) throws(NVMError) {
    try engine.heap.forEachBlock(tag: .treeRecord, owner: engine.owner) { (block) throws(NVMError) in
      guard let record = engine.record(at: block.payload.rawValue),
        engine.isIntact(record, at: block.payload)
      else { return }
      let bytes = record.base + RecordLayout.headerSize
      body(
        [UInt8](UnsafeRawBufferPointer(start: bytes, count: record.keyLength)),
        [UInt8](UnsafeRawBufferPointer(start: bytes + record.keyLength, count: record.valueLength)))
    }
  }

  /// What the header of a tree says of its types.
  package struct Kind {
    package var keyForm: DurableKeyForm
    package var valueForm: DurableValueForm
    package var keyTypeName: String?
    package var valueTypeName: String?
  }

  /// What the header at `handle` says, or nil if there is none that is whole. Of the types it holds hashes: their names are
  /// looked for among those given.
  package static func kind(
    ofHeaderAt handle: Offset, in heap: PersistentHeap, among names: [String]
  ) -> Kind? {
    guard let header = TreeHeader.read(heap, at: handle),
      let keyForm = DurableKeyForm(rawValue: header.keyForm),
      let valueForm = DurableValueForm(rawValue: header.valueForm)
    else { return nil }
    return Kind(
      keyForm: keyForm, valueForm: valueForm,
      keyTypeName: names.first { TreeEngine.typeHash($0) == header.keyType },
      valueTypeName: names.first { TreeEngine.typeHash($0) == header.valueType })
  }
}

extension TreeHeader {
  /// The header at an offset that may be any, if there is one.
  static func read(_ heap: PersistentHeap, at handle: Offset) -> TreeHeader? {
    guard !handle.isNull, heap.region.contains(handle, count: size), handle.rawValue & 7 == 0 else {
      return nil
    }
    return decode(heap.region.pointer(to: handle), heap.region.uuid)
  }
}

extension TreeEngine {
  /// Shuts an engine that nobody shares yet, but for salvage.
  fileprivate func seal(_ what: String) {
    recovery.isSealed = true
    recovery.damage.append(what)
    nvm_store_release(sealWord, 2)
  }
}
