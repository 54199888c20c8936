import NVMBTree
public import NVMRegion
public import NVMalloc

/// A file of named, typed, durable trees: the whole of swift-nvm behind one handle.
///
/// ```swift
/// let store = try NVMStore(path: "/mnt/pmem/app.nvm")
/// let ages = try store.tree("ages", of: String.self, Int.self)
/// try ages.updateValue(41, forKey: "ada")          // durable on return
/// try store.write { tx in                          // several trees, all or nothing
///   try tx[ages].updateValue(42, forKey: "ada")
///   try tx[log].removeValue(forKey: 7)
/// }
/// try store.close()
/// ```
///
/// One process at a time has a store open for writing; any number may read one that nobody writes. All methods are
/// thread-safe.
///
/// Lock order: `turn` (transactions, removals, close, verify), then the gates of trees, then `state`.
public final class NVMStore: Sendable {
  /// The file under the store.
  public let region: PersistentRegion
  /// The heap in that file. Applications may keep blocks of their own in it, with tags below 0xFF00, and trees of
  /// their own under named roots (`DurableBTree(in:root:)`), which transactions do not reach. Owner tokens of trees are those
  /// of `trees`.
  public let heap: PersistentHeap
  /// What opening found and did.
  public let recovery: StoreRecovery
  let options: NVMStoreOptions
  let catalogue: DurableBTree<String, CatalogueEntry>
  /// The heap's root under which the log of a transaction stands.
  let logLink: Offset
  let turn = OwnedLock()
  let state: Lock<State>

  struct State {
    var entries: [String: CatalogueEntry]
    var open: [UInt32: OpenTree] = [:]
    /// The last number given to a tree; numbers are not used twice within one opening.
    var lastNumber: UInt32
    var removedNumbers: Set<UInt32> = []
    var isClosed = false
  }

  /// An open tree and the typed handles to it that were handed out.
  struct OpenTree {
    let tree: EncodedTree
    var handles: [ObjectIdentifier: any Sendable] = [:]
    /// An empty one, for the next transaction. Taken and given back with the turn.
    var spareTable: ChangeTable?
  }

  init(
    heap: PersistentHeap, options: NVMStoreOptions, catalogue: DurableBTree<String, CatalogueEntry>,
    logLink: Offset,
    entries: [String: CatalogueEntry], open: [UInt32: EncodedTree], recovery: StoreRecovery
  ) {
    region = heap.region
    self.heap = heap
    self.options = options
    self.catalogue = catalogue
    self.logLink = logLink
    self.recovery = recovery
    let last = entries.values.map(\.number).max() ?? CatalogueEntry.treeNumber
    state = Lock(
      State(entries: entries, open: open.mapValues { OpenTree(tree: $0) }, lastNumber: last))
  }

  /// The file's path, as given.
  public var path: String { region.path }
  /// What the file lies on, and so what makes it durable.
  public var media: RegionMedia { region.media }

  /// Closes the store: waits for writers, marks the file as properly closed, releases it. Idempotent. Later calls
  /// of the store and its trees throw `.closed`.
  ///
  /// A store that is never closed loses nothing: the next opening recovers it.
  /// - Throws: `.ioFailure` when the mark cannot be written, `.invalidArgument` inside of a transaction.
  public func close() throws(NVMError) {
    try turn.lock("The store cannot be closed inside of a transaction.")
    defer { turn.unlock() }
    let trees = try state.withLock { (state) throws(NVMError) -> [EncodedTree]? in
      if state.isClosed { return nil }
      // What the unclean shutdown left in trees that nobody has opened since is mended before the file counts as
      // properly closed.
      if !region.wasCleanlyClosed, (try? region.checkWritable()) != nil {
        for (name, entry) in state.entries { _ = try? openTree(name, entry, &state) }
      }
      state.isClosed = true
      return state.open.values.map(\.tree)
    }
    guard let trees else { return }
    var held: [EncodedTree] = []
    defer { for tree in held { tree.release() } }
    for tree in trees where (try? tree.hold()) != nil { held.append(tree) }
    catalogue.close()
    for tree in held { tree.settle() }
    // Records that a reader still holds, or damage that kept a tree from being mended, are the next opening's
    // work: it does it only after an unclean shutdown.
    let isWhole =
      catalogue.statistics.waitingForReaders == 0
      && held.allSatisfy { $0.waitingForReaders == 0 && !$0.isSealed }
    let count = state.withLock { $0.entries.count }
    heap.close()
    if isWhole, region.wasCleanlyClosed || held.count == count {
      try region.close()
    } else {
      region.abandon()
    }
  }

  /// Opens a group: changes made under it are durable later, which can be asked for without stalling. O(1).
  public func makePersistGroup() -> PersistGroup { region.makePersistGroup() }

  /// Throws unless the store may be used.
  func checkUsable(_ state: borrowing State) throws(NVMError) {
    try region.checkUsable()
    if state.isClosed {
      throw NVMError(code: .closed, message: "The store was closed. Open it again to use it.", path: path)
    }
  }

  /// Ends the use of the file as a crash would: for tests.
  package func abandon() { region.abandon() }
}

/// What opening a store found and did.
public struct StoreRecovery: Sendable {
  /// Whether the file had been closed properly. A new one counts as such.
  public internal(set) var wasCleanlyClosed = true
  /// Whether this opening made the file.
  public internal(set) var isNew = false
  /// What the heap found and did.
  public internal(set) var heap: HeapRecovery
  /// Changes of a committed transaction that a crash had kept from going in, and that went in now.
  public internal(set) var replayedChanges = 0
  /// Trees whose making or removal a crash had cut short, and whose blocks were freed.
  public internal(set) var sweptTrees = 0
  /// Wall-clock time of the opening. Trees are recovered when they are first asked for, in addition.
  public internal(set) var duration: Duration = .zero

  init(heap: HeapRecovery) { self.heap = heap }
}
