import CNVM
import NVMRegion
import NVMalloc

extension TreeEngine {
  /// Makes a tree's header block and first leaf, durable but linked from nowhere.
  static func create(
    in heap: PersistentHeap, number: UInt32, keyForm: UInt8, valueForm: UInt8, keyType: String,
    valueType: String,
    options: TreeOptions
  ) throws(NVMError) -> TreeShare {
    try heap.region.checkWritable()
    guard number != 0, number < 1 << 20 else {
      throw NVMError(
        code: .invalidArgument, message: "A tree's number must lie between 1 and \((1 << 20) - 1).",
        path: heap.region.path)
    }
    let space = try TreeSpace.of(heap)
    let owner = OwnerToken(rawValue: number)
    let handle = try heap.allocate(byteCount: TreeHeader.size, tag: .treeRoot, owner: owner)
    do throws(NVMError) {
      let extent = try heap.allocate(
        byteCount: options.extentBytes, alignment: heap.extentUnit, tag: .treeNodes, owner: owner)
      let pool = NodePool.Extent(payload: extent, byteCount: options.extentBytes)
      let header = TreeHeader(
        tree: number, keyForm: keyForm, valueForm: valueForm, firstLeaf: pool.first,
        keyType: typeHash(keyType),
        valueType: typeHash(valueType))
      let engine = TreeEngine(heap: heap, space: space, header: header, handle: handle, options: options)
      engine.nodes.withLock {
        $0.add(pool, allFree: true)
        let first = $0.take()
        assert(first == pool.first)
      }
      engine.writeLeaf(pool.first, [], next: 0)
      header.encoded(heap.region.uuid).withUnsafeBytes { heap.region.write($0, at: handle) }
      try heap.region.persist(handle, count: TreeHeader.size)
      engine.recovery.leaves = 1
      // An engine of that number, if there is one, is of a tree that was removed.
      return engine.becomeRegistered()
    } catch {
      // Nothing refers to what was made.
      try? destroy(number: number, in: heap)
      throw error
    }
  }

  /// Opens the tree whose header block is at `handle` and recovers it.
  static func open(
    in heap: PersistentHeap, at handle: Offset, keyForm: UInt8, valueForm: UInt8, keyType: String,
    valueType: String,
    options: TreeOptions, progress: ((Double) -> Void)?
  ) throws(NVMError) -> TreeShare {
    try heap.region.checkUsable()
    guard let header = TreeHeader.read(heap, at: handle) else {
      throw NVMError(
        code: .corrupt,
        message:
          "There is no tree here: its header is damaged or the offset is wrong. Of a store's tree, save what can "
          + "be read (nvmctl dump --salvage, StoreSalvage).",
        path: heap.region.path, offset: handle.rawValue)
    }
    guard header.keyForm == keyForm, header.valueForm == valueForm, header.keyType == typeHash(keyType),
      header.valueType == typeHash(valueType)
    else {
      throw NVMError(
        code: .typeMismatch,
        message:
          "The tree holds other types than \(keyType) → \(valueType). Open it with those it was made with.",
        path: heap.region.path, offset: handle.rawValue)
    }
    let space = try TreeSpace.of(heap)
    if let share = space.claim(header.tree) {
      guard share.engine.handle == handle else {
        throw NVMError(
          code: .corrupt, message: "Two trees of the heap have the number \(header.tree).",
          path: heap.region.path, offset: handle.rawValue)
      }
      return share
    }
    let engine = TreeEngine(heap: heap, space: space, header: header, handle: handle, options: options)
    do throws(NVMError) {
      try engine.recover(progress: progress)
    } catch {
      space.release(header.tree)
      throw error
    }
    heap.region.expectRandomReads()
    engine.useLargePages()
    return engine.becomeRegistered()
  }

  /// Frees every block of a tree that nothing links to any more. Restartable: what a crash leaves is found again.
  static func destroy(number: UInt32, in heap: PersistentHeap) throws(NVMError) {
    let owner = OwnerToken(rawValue: number)
    var blocks: [Offset] = []
    try passingDamage { () throws(NVMError) in
      try heap.forEachBlock(owner: owner) { (block) throws(NVMError) in
        switch block.tag {
        case .treeRoot, .treeNodes, .treeRecord: blocks.append(block.payload)
        default: break
        }
      }
    }
    for block in blocks {
      try passingDamage { () throws(NVMError) in try heap.deallocate(block, durability: .deferred) }
    }
    if !blocks.isEmpty { try heap.region.fence() }
  }

  /// Runs what goes on behind damaged block headers and ends with `.corrupt`, which is dropped: one damaged block, of
  /// whatever tree, must not keep others from being removed or opened. What is lost is its space; `verify` names it.
  static func passingDamage(_ body: () throws(NVMError) -> Void) throws(NVMError) {
    do throws(NVMError) {
      try body()
    } catch {
      guard error.code == .corrupt else { throw error }
    }
  }

  static func typeHash(_ name: String) -> UInt64 {
    var name = name
    return name.withUTF8 { nvm_hash_bytes(0x7E57, $0.baseAddress, $0.count) }
  }

  /// Frees what waited for readers and gives unused extents back. The tree stays usable.
  func settle() {
    guard (try? region.checkWritable()) != nil, !isSealed, !gate.isRemoved else { return }
    // What waits for changes under groups waits no longer.
    if isMarked, journal == nil { try? region.settleAllGroups() }
    reclaim()
    trim()
  }

  private func becomeRegistered() -> TreeShare {
    nvm_store_release(control + 192, 1)
    let share = TreeShare(self)
    space.register(share)
    return share
  }

  /// Ends the use of this engine: calls throw `.closed`, and the tree may be opened anew.
  func close() {
    guard isRegistered, !isClosed else { return }
    settle()
    nvm_store_release(sealWord, 3)
    nvm_store_release(control + 192, 0)
    space.release(tree)
  }

  func releaseMemory() {
    // A closed engine was settled; the tree may be open elsewhere by now.
    if !isClosed { settle() }
    // Separators that still wait are DRAM; records that still wait are swept by the next opening.
    let left = retired.withLock { $0.items }
    for item in left { if case .separator(let tail) = item.item { tail.deallocate() } }
    freeInnerNodes()
  }
}
