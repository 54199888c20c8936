public import NVMBTree
public import NVMRegion
import NVMalloc

// What can still be read of a store when damage keeps it from opening. Each tree is looked for in three places, the better
// first, and all that was lost is said:
//
//   the catalogue, opened as ever                  names, types, header
//   what is left of the catalogue                  leaves that are whole: the same. Records alone: no names of less than
//                                                  8 bytes, which stand in leaves
//   the tree's own header                          no name, and of the types their hashes
//
// A tree counts only if it has leaves on the medium. One whose own header is lost is read by its leaves alone.

/// A tree that is left in a damaged store.
public struct SalvagedTree: Sendable, Hashable {
  /// Its name, or "tree N" by its number where that is lost; with a "?" behind it if another one has that name.
  public fileprivate(set) var name: String
  public let isNameLost: Bool
  /// The recorded name of the key type, or "?" where it is lost.
  public let keyTypeName: String
  /// The recorded name of the value type, or "?" where it is lost.
  public let valueTypeName: String
  /// The owner token of its blocks.
  public let number: UInt32

  let keyForm: DurableKeyForm
  let valueForm: DurableValueForm
  let handle: Offset
}

/// A damaged store, open for rescuing what is left in it. Works on a whole one as well, and changes nothing.
///
/// ```swift
/// let salvage = try StoreSalvage(path: "/data/app.nvm")
/// for tree in salvage.trees {
///   try salvage.tree(named: tree.name).salvage(onDamage: { print($0) }) { key, value in
///     …                                            // encoded; `nvmctl dump --salvage` prints them as text
///     return true
///   }
/// }
/// ```
///
/// What a transaction had committed that a crash kept from going in is not read. Thread-safe.
public final class StoreSalvage: Sendable {
  /// The trees that are left, by their names.
  public let trees: [SalvagedTree]
  /// What is lost of the store itself: a sentence each. Damage within trees is told of when they are read.
  public let damage: [String]
  private let heap: PersistentHeap
  private let options: TreeOptions

  /// Opens what is left of the store at `path`, for reading. O(blocks of the heap) where the catalogue is damaged.
  ///
  /// - Parameters:
  ///   - options: as for ``NVMStore``; all that is read is checked, whatever they say.
  ///   - progress: called now and then with the share done, on the calling thread.
  /// - Throws: as ``NVMStore/open(path:options:progress:)``, where not even the heap can be read, and `.notFound` where it
  ///   has no trees of a store.
  public init(
    path: String, options: NVMStoreOptions = NVMStoreOptions(), progress: ((Double) -> Void)? = nil
  ) throws(NVMError) {
    var options = options
    options.access = .readOnly
    self.options = options.catalogue
    let region = try PersistentRegion.open(at: path, options: options.region)
    do throws(NVMError) {
      heap = try PersistentHeap.open(region, options: options.heap) { done, total in
        progress?(Double(done) / Double(max(total, 1)))
      }
      var search = TreeSearch(heap, options.catalogue)
      try search.run()
      (trees, damage) = (search.trees.values.sorted { $0.name < $1.name }, search.damage)
      if trees.isEmpty, !search.isCatalogueWhole {
        throw NVMError(
          code: .notFound, message: "Nothing of a store's trees is left in the file.", path: path)
      }
    } catch {
      region.abandon()
      throw error
    }
  }

  /// The file's path, as given.
  public var path: String { heap.region.path }

  /// A tree that is left, for ``EncodedTree/salvage(onDamage:_:)``. Other calls of one whose header is lost throw `.corrupt`.
  /// O(leaves).
  /// - Throws: `.notFound`, `.corrupt`, `.closed`, `.outOfMemory`.
  public func tree(named name: String) throws(NVMError) -> EncodedTree {
    guard let tree = trees.first(where: { $0.name == name }) else {
      let names = trees.prefix(10).map { "\"\($0.name)\"" }.joined(separator: ", ")
      throw NVMError(
        code: .notFound,
        message: "There is no tree \"\(name)\" among what is left: \(names)\(trees.count > 10 ? ", …" : "").",
        path: path)
    }
    do throws(NVMError) {
      return try EncodedTree.open(
        in: heap, at: tree.handle, keyForm: tree.keyForm, valueForm: tree.valueForm,
        keyTypeName: tree.keyTypeName, valueTypeName: tree.valueTypeName, options: options, progress: nil)
    } catch {
      guard error.code == .corrupt || error.code == .typeMismatch else { throw error }
      return try EncodedTree.openLeaves(
        in: heap, number: tree.number, at: tree.handle, keyForm: tree.keyForm, valueForm: tree.valueForm,
        keyTypeName: tree.keyTypeName, valueTypeName: tree.valueTypeName, options: options)
    }
  }

  /// Gives the file back. Idempotent; nothing of it may be read any more.
  public func close() {
    heap.close()
    heap.region.abandon()
  }
}

/// Looks for the trees of a store that may be damaged.
private struct TreeSearch {
  let heap: PersistentHeap
  let options: TreeOptions
  var trees: [UInt32: SalvagedTree] = [:]
  var damage: [String] = []
  var isCatalogueWhole = false
  /// The trees that have leaves.
  private var numbers: Set<UInt32> = []
  /// One that was being made or removed.
  private var work: UInt32?

  init(_ heap: PersistentHeap, _ options: TreeOptions) {
    self.heap = heap
    self.options = options
  }

  mutating func run() throws(NVMError) {
    try lookForLog()
    try passingDamage { () throws(NVMError) in
      try heap.forEachBlock(tag: .treeNodes, includingSmall: false) { (block) throws(NVMError) in
        let number = block.owner.rawValue
        if number != CatalogueEntry.treeNumber, TreeNumbers.ofStores.contains(number) {
          numbers.insert(number)
        }
      }
    }
    do throws(NVMError) {
      try readCatalogue()
      isCatalogueWhole = true
    } catch {
      guard error.code == .corrupt || error.code == .typeMismatch else { throw error }
      damage.append("The catalogue of trees is damaged: \(error.message)")
      try salvageCatalogue()
      try readHeaders()
    }
  }

  private mutating func lookForLog() throws(NVMError) {
    try passingDamage { () throws(NVMError) in
      guard let log = try heap.root(named: StoreLog.rootName), !log.isNull else { return }
      damage.append(
        "A committed transaction that a crash cut short is left out. Opening the store for writing would finish it."
      )
    }
  }

  private mutating func readCatalogue() throws(NVMError) {
    guard let handle = try heap.root(named: CatalogueEntry.rootName), !handle.isNull else {
      throw NVMError(
        code: .corrupt, message: "The heap does not say where it lies.", path: heap.region.path)
    }
    let catalogue = try DurableBTree<String, CatalogueEntry>.open(in: heap, at: handle, options: options)
    if let damage = catalogue.recovery.damage.first {
      throw NVMError(code: .corrupt, message: damage, path: heap.region.path, offset: handle.rawValue)
    }
    var iterator = try catalogue[...].makeIterator()
    while let (name, entry) = try iterator.nextEntry() {
      if entry.kind == .tree { trees[entry.number] = SalvagedTree(name, entry) }
    }
  }

  /// The entries of leaves that are whole, then those that only records tell of.
  private mutating func salvageCatalogue() throws(NVMError) {
    let leaves = try EncodedTree.openLeaves(
      in: heap, number: CatalogueEntry.treeNumber, keyForm: String.durableKeyForm,
      valueForm: CatalogueEntry.durableValueForm, keyTypeName: String.durableTypeName,
      valueTypeName: CatalogueEntry.durableTypeName, options: options)
    var entries: [(name: String?, entry: CatalogueEntry)] = []
    func note(_ key: [UInt8], _ value: [UInt8]) {
      guard let entry = value.withUnsafeBytes({ CatalogueEntry(valueBytes: $0) }) else { return }
      entries.append((key.withUnsafeBytes { String(keyBytes: $0) }, entry))
    }
    do {
      try leaves.salvage(onDamage: { _ in }) { key, value in
        note(key, value)
        return true
      }
    } catch let error as NVMError where error.code != .corrupt {
      throw error
    } catch {
      // The records are left.
    }
    try passingDamage { () throws(NVMError) in
      try leaves.forEachRecord { key, value in note(key, value) }
    }
    for (name, entry) in entries {
      if entry.kind == .work {
        work = entry.number
      } else if trees[entry.number] == nil, numbers.contains(entry.number) {
        let name = name.flatMap { $0.isEmpty ? nil : $0 }
        trees[entry.number] = SalvagedTree(name, entry)
      }
    }
  }

  /// The trees that only their own headers tell of.
  private mutating func readHeaders() throws(NVMError) {
    if let work { numbers.remove(work) }
    for number in numbers.sorted() where trees[number] == nil {
      try passingDamage { () throws(NVMError) in
        try heap.forEachBlock(tag: .treeRoot, owner: OwnerToken(rawValue: number)) {
          (block) throws(NVMError) in
          guard let kind = EncodedTree.kind(ofHeaderAt: block.payload, in: heap, among: Self.typeNames)
          else { return }
          trees[number] = SalvagedTree(
            name: "tree \(number)", isNameLost: true, keyTypeName: kind.keyTypeName ?? "?",
            valueTypeName: kind.valueTypeName ?? "?", number: number, keyForm: kind.keyForm,
            valueForm: kind.valueForm, handle: block.payload)
        }
      }
      if trees[number] == nil {
        damage.append("Of tree \(number) there are leaves, but nothing says what they hold.")
      }
    }
    let names = Set(trees.values.filter { !$0.isNameLost }.map(\.name))
    for tree in trees.values where tree.isNameLost && names.contains(tree.name) {
      trees[tree.number]?.name += "?"
    }
    for tree in trees.values.sorted(by: { $0.number < $1.number }) where tree.isNameLost {
      damage.append("The name of tree \(tree.number) is lost; it is shown as \"\(tree.name)\".")
    }
  }

  /// Types whose names are found by their hashes.
  private static let typeNames = [
    String.durableTypeName, [UInt8].durableTypeName, Int.durableTypeName, UInt.durableTypeName,
    Int32.durableTypeName, UInt32.durableTypeName, Int16.durableTypeName, UInt16.durableTypeName,
    Int8.durableTypeName, UInt8.durableTypeName, Int128.durableTypeName, UInt128.durableTypeName,
    Double.durableTypeName, Float.durableTypeName, Bool.durableTypeName, "UUID", "Date",
  ]
}

extension SalvagedTree {
  fileprivate init(_ name: String?, _ entry: CatalogueEntry) {
    self.init(
      name: name ?? "tree \(entry.number)", isNameLost: name == nil, keyTypeName: entry.keyTypeName,
      valueTypeName: entry.valueTypeName, number: entry.number, keyForm: entry.keyForm,
      valueForm: entry.valueForm, handle: entry.handle)
  }
}

/// Runs what ends with `.corrupt` where damage was passed over, and drops that.
private func passingDamage(_ body: () throws(NVMError) -> Void) throws(NVMError) {
  do throws(NVMError) {
    try body()
  } catch {
    guard error.code == .corrupt else { throw error }
  }
}
