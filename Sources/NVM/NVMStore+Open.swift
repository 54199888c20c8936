import NVMBTree
public import NVMRegion
import NVMalloc

// A new file gets its name when region, heap and catalogue are in it and durable, so a crash leaves a store or
// nothing. Opening, in this order:
//
// 1. region and heap recover what is theirs
// 2. the catalogue is opened and read
// 3. a tree whose making or removal was cut short is freed
// 4. a committed transaction that was cut short goes in, and its log is removed
//
// Every step may be cut short and done again. Other trees recover when they are first asked for, and at close at the
// latest.
extension NVMStore {
  /// Opens the store at `path`, or creates it where there is no file.
  ///
  /// - Parameter progress: called now and then with the share done, on the calling thread.
  /// - Throws: as ``open(path:options:progress:)`` and ``create(path:options:)``.
  public convenience init(
    path: String, options: NVMStoreOptions = NVMStoreOptions(), progress: ((Double) -> Void)? = nil
  ) throws(NVMError) {
    let region: PersistentRegion
    do throws(NVMError) {
      region = try PersistentRegion.open(at: path, options: options.region)
    } catch {
      guard error.code == .notFound, options.access == .readWrite else { throw error }
      let parts: Parts
      do throws(NVMError) {
        parts = try Self.makeFile(path, options)
      } catch {
        // Another process was quicker.
        guard error.code == .alreadyExists else { throw error }
        self.init(
          parts: try Self.recover(
            try PersistentRegion.open(at: path, options: options.region), options, progress),
          options: options)
        return
      }
      self.init(parts: parts, options: options)
      return
    }
    self.init(parts: try Self.recover(region, options, progress), options: options)
  }

  /// Opens an existing store, and recovers what a crash cut short. O(extents) of the heap and O(trees); the trees
  /// themselves recover when they are first asked for.
  ///
  /// - Throws: `.notFound`, `.notAFile`, `.permissionDenied`, `.readOnlyFileSystem`, `.locked`, `.notARegion`,
  ///   `.typeMismatch` (a region that holds something else), `.truncated`, `.newerFormat`, `.foreignByteOrder`,
  ///   `.corrupt`, `.readOnly` (a read-only opening that would have to finish a transaction), `.outOfMemory`,
  ///   `.ioFailure`. Each names the path and what to do; the file is left as it was.
  public static func open(
    path: String, options: NVMStoreOptions = NVMStoreOptions(), progress: ((Double) -> Void)? = nil
  ) throws(NVMError) -> NVMStore {
    let region = try PersistentRegion.open(at: path, options: options.region)
    return NVMStore(parts: try recover(region, options, progress), options: options)
  }

  /// Creates a store; the file appears complete or not at all.
  ///
  /// - Throws: `.alreadyExists`, `.notFound` (directory), `.permissionDenied`, `.readOnlyFileSystem`, `.diskFull`,
  ///   `.invalidArgument`, `.outOfSpace` (an initial size that holds no store), `.outOfMemory`. Nothing is left
  ///   behind.
  public static func create(
    path: String, options: NVMStoreOptions = NVMStoreOptions()
  ) throws(NVMError) -> NVMStore {
    NVMStore(parts: try makeFile(path, options), options: options)
  }

  /// A store in a region made elsewhere: for tests on other media. Formats a blank one.
  package convenience init(
    region: PersistentRegion, isBlank: Bool, options: NVMStoreOptions
  ) throws(NVMError) {
    self.init(
      parts: isBlank ? try Self.format(region, options) : try Self.recover(region, options, nil),
      options: options)
  }

  // MARK: Parts

  /// What a store is made of.
  struct Parts {
    var heap: PersistentHeap
    var catalogue: DurableBTree<String, CatalogueEntry>
    var logLink: Offset
    var entries: [String: CatalogueEntry] = [:]
    var open: [UInt32: EncodedTree] = [:]
    var recovery: StoreRecovery

    init(heap: PersistentHeap, catalogue: DurableBTree<String, CatalogueEntry>, logLink: Offset) {
      (self.heap, self.catalogue, self.logLink) = (heap, catalogue, logLink)
      recovery = StoreRecovery(heap: heap.recovery)
    }
  }

  private convenience init(parts: Parts, options: NVMStoreOptions) {
    self.init(
      heap: parts.heap, options: options, catalogue: parts.catalogue, logLink: parts.logLink,
      entries: parts.entries, open: parts.open, recovery: parts.recovery)
  }

  private static func makeFile(_ path: String, _ options: NVMStoreOptions) throws(NVMError) -> Parts {
    var parts: Parts?
    _ = try PersistentRegion.create(at: path, size: options.initialSize, options: options.region) {
      (region) throws(NVMError) in
      parts = try format(region, options)
    }
    guard let parts else { throw NVMError(code: .system, message: "The store was not made.", path: path) }
    return parts
  }

  private static func format(_ region: PersistentRegion, _ options: NVMStoreOptions) throws(NVMError) -> Parts
  {
    let start = ContinuousClock.now
    let heap = try PersistentHeap.format(region, options: options.heap)
    let catalogue = try DurableBTree<String, CatalogueEntry>.create(
      in: heap, number: CatalogueEntry.treeNumber, options: options.catalogue)
    let log = try heap.rootLink(named: StoreLog.rootName)
    // Last: without it there is no store.
    try heap.setRoot(catalogue.handle, named: CatalogueEntry.rootName)
    var parts = Parts(heap: heap, catalogue: catalogue, logLink: log)
    parts.recovery.isNew = true
    parts.recovery.duration = ContinuousClock.now - start
    return parts
  }

  // MARK: Recovery

  private static func recover(
    _ region: PersistentRegion, _ options: NVMStoreOptions, _ progress: ((Double) -> Void)?
  ) throws(NVMError) -> Parts {
    let start = ContinuousClock.now
    do throws(NVMError) {
      let heap = try PersistentHeap.open(region, options: options.heap) { done, total in
        progress?(0.9 * Double(done) / Double(max(total, 1)))
      }
      guard let handle = try heap.root(named: CatalogueEntry.rootName), !handle.isNull else {
        throw NVMError(
          code: .typeMismatch,
          message: "The file holds a heap but no store. Open it with what made it, PersistentHeap or "
            + "DurableBTree(in:root:), or choose another path.", path: region.path)
      }
      let catalogue = try DurableBTree<String, CatalogueEntry>.open(
        in: heap, at: handle, options: options.catalogue)
      if let damage = catalogue.recovery.damage.first {
        throw NVMError(
          code: .corrupt,
          message: "The catalogue of trees is damaged. Restore the file from a backup, or save what can be "
            + "read (nvmctl dump --salvage, StoreSalvage). \(damage)",
          path: region.path, offset: handle.rawValue)
      }
      var parts = Parts(
        heap: heap, catalogue: catalogue,
        logLink: try heap.rootLink(named: StoreLog.rootName, createIfMissing: !region.isReadOnly))
      parts.recovery.wasCleanlyClosed = region.wasCleanlyClosed
      try readCatalogue(&parts)
      try replayLog(&parts, options)
      parts.recovery.duration = ContinuousClock.now - start
      progress?(1)
      return parts
    } catch {
      region.abandon()
      throw error
    }
  }

  private static func readCatalogue(_ parts: inout Parts) throws(NVMError) {
    var iterator = try parts.catalogue[...].makeIterator()
    var work: CatalogueEntry?
    while let (name, entry) = try iterator.nextEntry() {
      if entry.kind == .work { work = entry } else { parts.entries[name] = entry }
    }
    guard let work, !parts.heap.region.isReadOnly else { return }
    if !parts.entries.values.contains(where: { $0.number == work.number }) {
      try EncodedTree.destroy(number: work.number, in: parts.heap)
      parts.recovery.sweptTrees = 1
    }
    try parts.catalogue.removeValue(forKey: CatalogueEntry.workName)
  }

  private static func replayLog(_ parts: inout Parts, _ options: NVMStoreOptions) throws(NVMError) {
    let region = parts.heap.region
    let block = Offset(rawValue: region.load(parts.logLink))
    guard !block.isNull else { return }
    guard !region.isReadOnly else {
      throw NVMError(
        code: .readOnly,
        message:
          "A crash cut a transaction short, and finishing it changes the file. Open it for writing once.",
        path: region.path)
    }
    func damaged(_ what: String) -> NVMError {
      NVMError(
        code: .corrupt,
        message: "The log of the last transaction \(what). Restore the file from a backup, or save what can "
          + "be read (nvmctl dump --salvage, StoreSalvage).",
        path: region.path, offset: block.rawValue)
    }
    let info = try parts.heap.info(of: block)
    guard info.tag == .storeLog,
      let changes = StoreLog.decode(
        UnsafeRawBufferPointer(start: region.pointer(to: block), count: info.length), region.uuid)
    else { throw damaged("is damaged") }
    for change in changes {
      guard let entry = parts.entries.values.first(where: { $0.number == change.tree }) else {
        throw damaged("names a tree that the catalogue does not have")
      }
      let tree: EncodedTree
      if let known = parts.open[entry.number] {
        tree = known
      } else {
        tree = try open(entry, in: parts.heap, options.tree)
        parts.open[entry.number] = tree
      }
      try tree.apply(change)
    }
    try parts.heap.remove(from: parts.logLink)
    parts.recovery.replayedChanges = changes.count
  }

  static func open(
    _ entry: CatalogueEntry, in heap: PersistentHeap, _ options: TreeOptions,
    _ progress: ((Double) -> Void)? = nil
  ) throws(NVMError) -> EncodedTree {
    let tree = try EncodedTree.open(
      in: heap, at: entry.handle, keyForm: entry.keyForm, valueForm: entry.valueForm,
      keyTypeName: entry.keyTypeName, valueTypeName: entry.valueTypeName, options: options, progress: progress
    )
    tree.enableGate()
    return tree
  }
}

extension EncodedTree {
  /// Carries out a change; doing it again changes nothing.
  func apply(_ change: StoreLog.Change) throws(NVMError) {
    if let value = change.value {
      try setValue(value, forKey: change.key)
    } else {
      try removeValue(forKey: change.key)
    }
  }
}
