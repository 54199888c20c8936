import CNVM
import Glibc
import NVMRegion
import NVMalloc

/// DRAM shared by all trees of one heap: a lock word and a journal position beside each possible leaf, and the pool
/// of inner nodes. All are reserved address space; memory is taken page by page where it is touched.
///
/// All are type-stable: a freed leaf's lock word and a freed inner node keep counting versions, so an optimistic
/// reader that arrives late sees a change and starts over.
final class TreeSpace: @unchecked Sendable {
  private let locks: UnsafeMutableRawPointer
  private let positions: UnsafeMutableRawPointer
  private let locksSize: Int
  private let nodes: UnsafeMutableRawPointer
  private let tails: UnsafeMutableRawPointer
  private let nodesSize: Int
  private let tailsSize: Int
  private let nodeLimit: UInt32
  let epochs = Epochs()
  private struct Pool {
    var used: UInt32 = 1  // 0 means none
    var free: [UInt32] = []
  }
  private let pool = Lock(Pool())

  private init(_ region: PersistentRegion) throws(NVMError) {
    let leaves = (region.maximumSize >> Int(LeafLayout.shift)) + 1
    locksSize = leaves * 8
    // Nodes are at least a quarter full on average, but small trees are many: leave ample room, it is free.
    let nodeCount = min(leaves / 16 + 4096, Int(UInt32.max))
    nodeLimit = UInt32(nodeCount)
    nodesSize = nodeCount * InnerNode.size
    tailsSize = nodeCount * InnerNode.tailSize
    let sizes = [locksSize, locksSize, nodesSize, tailsSize]
    let parts = sizes.map { size in
      mmap(nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    }
    guard parts.allSatisfy({ $0 != MAP_FAILED }) else {
      for (part, size) in zip(parts, sizes) where part != MAP_FAILED {
        munmap(part, size)
      }
      throw NVMError(
        code: .outOfMemory,
        message:
          "No address space for the tree's tables (\(sizes.reduce(0, +)) bytes). Raise the limit "
          + "(ulimit -v) or open the file with a smaller reservation.", path: region.path)
    }
    (locks, positions, nodes, tails) = (parts[0]!, parts[1]!, parts[2]!, parts[3]!)
  }

  deinit {
    epochs.deallocate()
    munmap(locks, locksSize)
    munmap(positions, locksSize)
    munmap(nodes, nodesSize)
    munmap(tails, tailsSize)
  }

  /// The space of a heap's trees, made with the first of them.
  static func of(_ heap: PersistentHeap) throws(NVMError) -> TreeSpace {
    try registry.withLock { (spaces) throws(NVMError) in
      spaces = spaces.filter { $0.value.space != nil && $0.value.heap != nil }
      if let space = spaces[ObjectIdentifier(heap)]?.space { return space }
      let space = try TreeSpace(heap.region)
      spaces[ObjectIdentifier(heap)] = Entry(heap: heap, space: space)
      return space
    }
  }
  private struct Entry {
    weak var heap: PersistentHeap?
    weak var space: TreeSpace?
  }
  private static let registry = Lock<[ObjectIdentifier: Entry]>([:])

  // MARK: Open trees

  /// Held while the tree of a root is made: of a number that nothing links to yet another thread would free the blocks.
  let making = Lock(())

  /// The engine of each open tree. Without one an entry stands for an engine that is being opened or taken down.
  private struct OpenTree {
    weak var share: TreeShare?
  }
  private let openTrees = Lock<[UInt32: OpenTree]>([:])

  /// The open engine of a tree, or the right (nil) to open it: two engines over one tree would not know of each
  /// other. Waits while another thread opens it or takes it down.
  func claim(_ tree: UInt32) -> TreeShare? {
    while true {
      let (share, mine) = openTrees.withLock { trees -> (TreeShare?, Bool) in
        if let entry = trees[tree] { return (entry.share, false) }
        trees[tree] = OpenTree()
        return (nil, true)
      }
      if mine || share != nil { return share }
      usleep(50)
    }
  }
  func register(_ share: TreeShare) { openTrees.withLock { $0[share.engine.tree] = OpenTree(share: share) } }
  /// Ends a claim, or the registration of an engine that has been taken down.
  func release(_ tree: UInt32) { openTrees.withLock { $0[tree] = nil } }

  /// The lock word of a leaf: bit 0 is set while a writer holds it; the rest counts changes.
  @inline(__always) func lockWord(_ leaf: UInt32) -> UnsafeMutableRawPointer { locks + Int(leaf) &* 8 }

  /// On a journal, the position before which the leaf's last change lies.
  @inline(__always) func positionWord(_ leaf: UInt32) -> UnsafeMutableRawPointer {
    positions + Int(leaf) &* 8
  }

  /// The way down for a key that is its head, once: `NVM_NO_PLACE` where a writer was met.
  @inline(__always)
  func descend(
    _ head: UInt64, root: UnsafeMutableRawPointer, leaves: UnsafeMutableRawPointer
  ) -> nvm_place {
    nvm_descend(root, nodes, locks, leaves, head)
  }

  /// The same for several keys.
  func descend(
    _ heads: UnsafePointer<UInt64>, _ count: Int, root: UnsafeMutableRawPointer,
    leaves: UnsafeMutableRawPointer,
    to places: UnsafeMutablePointer<nvm_place>
  ) {
    nvm_descend_many(root, nodes, locks, leaves, heads, Int32(truncatingIfNeeded: count), places)
  }
  /// Looks the same keys up where they were led: see `nvm_find_many`.
  func find(
    _ heads: UnsafePointer<UInt64>, _ count: Int, leaves: UnsafeMutableRawPointer,
    at places: UnsafeMutablePointer<nvm_place>, to words: UnsafeMutablePointer<UInt64>
  ) -> UInt32 {
    nvm_find_many(locks, leaves, heads, Int32(truncatingIfNeeded: count), places, words)
  }

  @inline(__always) func inner(_ node: UInt32) -> InnerNode {
    InnerNode(base: nodes + Int(node) &* InnerNode.size, tails: tails + Int(node) &* InnerNode.tailSize)
  }

  /// Throws where the pool might not last for one more split of the deepest possible tree, of each thread.
  func checkRoom() throws(NVMError) {
    let hasRoom = pool.withLock { $0.used < nodeLimit - 2048 || $0.free.count > 2048 }
    guard hasRoom else {
      throw NVMError(
        code: .outOfMemory, message: "The trees' pool of inner nodes is used up. Reopen the file.")
    }
  }

  /// A node whose content is arbitrary but for its version. Room was checked before.
  func allocateInner() -> UInt32 {
    pool.withLock { pool in
      if let node = pool.free.popLast() { return node }
      precondition(pool.used < nodeLimit, "room was not checked")
      let node = pool.used
      pool.used += 1
      inner(node).initialize()
      if pool.used == Self.manyNodes { useLargePages() }
      return node
    }
  }
  /// From so many inner nodes on, small pages cost a descent more than they save.
  private static let manyNodes: UInt32 = 256

  /// A descent to a random leaf of a large tree meets two or three pages of these tables that the processor has no
  /// translation for, unless they are large. Only advice: where the kernel does not take it, small pages serve.
  private func useLargePages() {
    let collapse: Int32 = 25  // MADV_COLLAPSE, Linux 6.1
    for (table, size) in [(locks, locksSize), (positions, locksSize), (nodes, nodesSize)] {
      let large = 2 << 20
      let start = UnsafeMutableRawPointer(
        bitPattern: (UInt(bitPattern: table) + UInt(large) - 1) & ~UInt(large - 1))!
      let count = (size - (start - table)) & ~(large - 1)
      guard count > 0 else { continue }
      madvise(start, count, MADV_HUGEPAGE)
      // What is in use already comes together at once.
      madvise(start, large, collapse)
    }
  }
  func freeInner(_ node: UInt32) { pool.withLock { $0.free.append(node) } }
}

/// What the handles to an open tree have in common. The space refers weakly to this, not to the engine: an object with
/// weak references takes several times as long to retain, and each scan retains the engine.
///
/// What holds the engine for longer than a call holds a handle, too: an engine without one counts as being taken down.
final class TreeShare: Sendable {
  let engine: TreeEngine
  init(_ engine: TreeEngine) { self.engine = engine }
}
