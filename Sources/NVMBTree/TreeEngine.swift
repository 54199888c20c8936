import CNVM
import NVMRegion
import NVMalloc

// The engine under `DurableBTree`: one implementation over 16-byte slots, whatever the types.
//
// Medium: leaves (LeafLayout) in extents that the tree owns, linked in key order; records (RecordLayout) in heap
// blocks; one header block. Which leaves are in use follows from the chain alone; inner nodes live in DRAM.
//
// Locks (all in DRAM), in the order in which they are taken:
//   0  the gate (TreeGate), where the tree belongs to a store
//   1  leaf lock words, left before right
//   2  the structure lock: all changes of inner nodes
//   3  the node pool, the retired list, the heap's own
// Readers take none: they check versions (optimistic lock coupling).
//
// Durability: nobody reads what a crash could take back. On cache-line media and in-place files a writer holds the
// leaf's lock until its change is fenced. On a journal a fence lasts as long as a disk: there the writer notes the
// journal position of its change beside the lock, gives the lock back and then waits; a reader that finds a position
// that is not durable yet waits for it. Changes under a persist group do likewise on every medium (TreeEngine+Journal).
@usableFromInline final class TreeEngine: @unchecked Sendable {
  let region: PersistentRegion
  let heap: PersistentHeap
  let space: TreeSpace
  /// The region's journal, if it has one.
  let journal: JournaledFileMedium?
  let positions: JournalPositions?
  let tree: UInt32
  let seed: UInt64
  let keysAreBytes: Bool
  let valuesAreBytes: Bool
  let firstLeaf: UInt32
  let options: TreeOptions
  /// The header block.
  let handle: Offset

  /// Most entries of a leaf and separators of an inner node; smaller in tests.
  let leafCapacity: Int
  let innerCapacity: Int

  /// Words apart from the object: 0 root (node | height << 32), 128 seal, 136 marks, 144 window, 192 registered.
  let control: UnsafeMutableRawPointer
  let entryCount = EntryCount()
  /// Shuts others out while a transaction goes in.
  let gate = TreeGate()
  let structure = Lock<Void>(())
  let nodes: Lock<NodePool>
  /// How many inner nodes the tree has.
  let innerNodes = Lock(0)
  let retired = Lock(Retired())

  /// Set once by recovery, before the tree is shared.
  var recovery = TreeRecovery()
  /// Of a sealed tree the last leaf of the chain, behind which damage begins; else 0. As `recovery`.
  var chainEnd: UInt32 = 0
  /// The last that has entries, or the first leaf, which need not be that one.
  var lastKnownLeaf: UInt32 = 0

  var owner: OwnerToken { OwnerToken(rawValue: tree) }

  init(heap: PersistentHeap, space: TreeSpace, header: TreeHeader, handle: Offset, options: TreeOptions) {
    region = heap.region
    self.heap = heap
    self.space = space
    self.handle = handle
    self.options = options
    journal = heap.region.journal
    positions = heap.region.journal?.positions
    tree = header.tree
    keysAreBytes = header.keyForm != 0
    valuesAreBytes = header.valueForm != 0
    firstLeaf = header.firstLeaf
    leafCapacity = min(max(options.leafCapacity, 3), LeafLayout.capacity)
    innerCapacity = min(max(options.innerCapacity, 3), InnerNode.capacity)
    seed = nvm_mix2(UInt64(header.tree), heap.region.uuid.high, heap.region.uuid.low)
    control = .allocate(byteCount: 256, alignment: 64)
    control.initializeMemory(as: UInt8.self, repeating: 0, count: 256)
    nodes = Lock(NodePool())
    nvm_store_release(control, UInt64(header.firstLeaf))
    if journal != nil { nvm_store_release(control + 136, 1) }
    nvm_store_relaxed(windowWord, UInt64(NVM_WINDOW_TOP))
  }

  deinit {
    releaseMemory()
    if isRegistered { space.release(tree) }
    control.deallocate()
    entryCount.deallocate()
    gate.deallocate()
  }

  // MARK: Words

  @inline(__always) var rootWord: UnsafeMutableRawPointer { control }
  /// 0 in a whole tree; 1 sealed: reading only; 2: not even the first leaf can be read; 3: closed.
  @inline(__always) var sealWord: UnsafeMutableRawPointer { control + 128 }
  @inline(__always) var isSealed: Bool { nvm_load_relaxed(sealWord) != 0 }
  @inline(__always) var isReadable: Bool { nvm_load_relaxed(sealWord) < 2 }
  /// Not 0 where there is a journal, or changes under groups have begun.
  @inline(__always) var marksWord: UnsafeMutableRawPointer { control + 136 }
  /// Where the heads of leaves mostly differ, as walks have found: a hint (nvm_slots.h).
  @inline(__always) var windowWord: UnsafeMutableRawPointer { control + 144 }
  var isClosed: Bool { nvm_load_acquire(sealWord) == 3 }
  /// Whether the space's register of open trees names this engine.
  var isRegistered: Bool { nvm_load_acquire(control + 192) == 1 }

  /// The number of entries. O(1).
  @usableFromInline var count: Int { entryCount.total }

  @inline(__always) func leaf(_ node: UInt32) -> Leaf {
    let offset = UInt64(node) << LeafLayout.shift
    return Leaf(node: node, base: region.baseAddress + Int(offset))
  }

  @inline(__always) func isLong(_ head: UInt64) -> Bool { keysAreBytes && head & 0xFF == 8 }

  /// Whether the leaf number lies in the region: what comes from a torn read is checked before it is followed.
  @inline(__always) func isInside(_ node: UInt32) -> Bool {
    (UInt64(node) &+ 1) << LeafLayout.shift <= UInt64(region.size)
  }

  @inline(__always) func checkWritable() throws(NVMError) {
    try region.checkWritable()
    if isSealed { throw sealedError() }
  }

  @inline(never) func sealedError() -> NVMError {
    if isClosed {
      return NVMError(
        code: .closed, message: "The tree was closed. Open it again to use it.", path: region.path)
    }
    return NVMError(
      code: .corrupt,
      message:
        "The tree's chain of leaves is damaged, so it is open for reading only and nothing of it is reused. "
        + "Save what can be read (nvmctl dump --salvage, EncodedTree.salvage) and rebuild it; verify() lists the damage. \(recovery.firstDamage)",
      path: region.path, offset: handle.rawValue)
  }
}

/// How a tree is opened. The capacities are for tests, which want splits and merges early.
public struct TreeOptions: Sendable {
  /// Check the checksum of the leaf, and of the record where there is one, on every look-up and scan: a flipped bit is
  /// then an error of the read that meets it, not only of `verify()`. What it costs: `nvm-bench tree --workloads
  /// verifying`.
  ///
  /// Without, leaves are checked when the tree is opened, records are not: of a damaged one a wrong value may be read, and
  /// a damaged key of 8 bytes or more, and others next to it, may seem not to be there. With, that is an error, and leaves
  /// do not split around damage. Where such a key is the first or the last of its leaf when the tree is opened, the tree
  /// can only be read up to there (``EncodedTree/salvage(onDamage:_:)`` gives the rest); there, one in 256 is not seen by
  /// what the leaf knows of it. Batches of changes look for what they replace without checking.
  public var verifiesReads = false
  /// Read what other threads have changed before it is durable: on a journaled file, and what was changed under persist
  /// groups. A crash may then take back what was read. Default: such a read waits for the disk, or settles the change.
  public var readsAhead = false
  package var leafCapacity = LeafLayout.capacity
  package var innerCapacity = InnerNode.capacity
  package var extentBytes = 64 << 10

  public init() {}
  package init(leafCapacity: Int, innerCapacity: Int, extentBytes: Int = 64 << 10) {
    self.leafCapacity = leafCapacity
    self.innerCapacity = innerCapacity
    self.extentBytes = extentBytes
  }
}

/// A leaf in the mapping.
struct Leaf {
  let node: UInt32
  let base: UnsafeMutableRawPointer

  @inline(__always) var offset: Offset { Offset(rawValue: UInt64(node) << LeafLayout.shift) }
  @inline(__always) var commit: LeafCommit { LeafCommit(raw: nvm_load_acquire(base)) }
  @inline(__always) var sums: UInt64 { nvm_load_relaxed(base + LeafLayout.sums) }
  @inline(__always) func head(_ slot: Int) -> UInt64 { nvm_load_relaxed(base + LeafLayout.slot(slot)) }
  @inline(__always) func word(_ slot: Int) -> UInt64 { nvm_load_relaxed(base + LeafLayout.slot(slot) + 8) }
  @inline(__always) func next(_ alternate: Bool) -> UInt32 {
    let both = nvm_load_relaxed(base + LeafLayout.next)
    return UInt32(truncatingIfNeeded: alternate ? both >> 32 : both)
  }
  @inline(__always) func fingerprint(_ slot: Int) -> UInt8 {
    let word = nvm_load_relaxed(base + (LeafLayout.fingerprints &+ (slot & ~7)))
    return UInt8(truncatingIfNeeded: word &>> (UInt64(slot & 7) &* 8))
  }
  @inline(__always) func matches(_ fingerprint: UInt8) -> UInt64 {
    UInt64(nvm_match32(base + LeafLayout.fingerprints, fingerprint))
  }
}

extension TreeEngine {
  // MARK: Sums

  @inline(__always) func leafSeed(_ node: UInt32) -> UInt64 { seed &+ UInt64(node) &* 0x9FB2_1C65_1E98_DF25 }

  /// The hash of one slot and its fingerprint, bound to its place.
  @inline(__always)
  func slotHash(_ leafSeed: UInt64, _ slot: Int, _ head: UInt64, _ word: UInt64, _ fingerprint: UInt8)
    -> UInt32
  {
    let place = UInt64(slot) << 8 | UInt64(fingerprint)
    return nvm_fold32(nvm_mix2(leafSeed &+ place &* 0xC6A4_A793_5BD1_E995, head, word))
  }
  @inline(__always) func nextHash(_ leafSeed: UInt64, _ next: UInt32) -> UInt32 {
    nvm_fold32(nvm_mix2(leafSeed ^ 0x5851_F42D_4C95_7F2D, UInt64(next), UInt64(tree)))
  }

  /// The sum over a set of slots and the `next` field that goes with it.
  func sum(_ leaf: Leaf, _ set: UInt64, alternate: Bool) -> UInt32 {
    let s = leafSeed(leaf.node)
    var total = nextHash(s, leaf.next(alternate))
    var rest = set
    while rest != 0 {
      let i = rest.trailingZeroBitCount
      rest &= rest &- 1
      total &+= slotHash(s, i, leaf.head(i), leaf.word(i), leaf.fingerprint(i))
    }
    return total
  }

  // MARK: Keys of slots

  /// The key in a slot. For long keys it points into the record: valid while pinned or locked.
  /// `nil` when the word does not lead to a record, which a torn optimistic read can produce.
  @inline(__always) func key(_ head: UInt64, _ word: UInt64) -> SearchKey? {
    guard isLong(head) else { return SearchKey(head: head) }
    return longKey(head, word)
  }

  @usableFromInline @inline(never) func longKey(_ head: UInt64, _ word: UInt64) -> SearchKey? {
    guard let record = record(at: word), record.keyLength >= 8 else { return nil }
    return SearchKey(head: head, bytes: record.key, count: record.keyLength)
  }

  /// The slot of `live` that holds the key, or nil.
  @inline(__always) func find(_ key: SearchKey, in leaf: Leaf, live: UInt64, fingerprint: UInt8) -> Int? {
    var candidates = leaf.matches(fingerprint) & live
    while candidates != 0 {
      let i = candidates.trailingZeroBitCount
      candidates &= candidates &- 1
      guard leaf.head(i) == key.head else { continue }
      guard key.bytes != nil else { return i }
      if let found = longKey(key.head, leaf.word(i)), found.compare(key) == 0 { return i }
    }
    return nil
  }
}
