import CNVM
import NVMRegion

// Changes of inner nodes. All of them hold the structure lock, so the inner tree stands still but for the change
// under way; each node that changes has an odd version meanwhile, which sends optimistic readers back.

extension TreeEngine {
  /// A step of a path: the inner node and the index of the child taken.
  private struct Step {
    var node: UInt32
    var index: Int
  }

  private var root: UInt32 { UInt32(truncatingIfNeeded: nvm_load_relaxed(rootWord)) }
  var height: Int { Int(nvm_load_relaxed(rootWord) >> 32) }

  private func allocateInner() -> UInt32 {
    innerNodes.withLock { $0 += 1 }
    return space.allocateInner()
  }
  /// Gives back a node that is out of the tree. Another tree may get it: of long keys nothing stays behind in it.
  private func freeInner(_ node: UInt32) {
    innerNodes.withLock { $0 -= 1 }
    if keysAreBytes { space.inner(node).forgetTails() }
    space.freeInner(node)
  }

  /// After a change of a locked node. Trees of short keys leave the memory of tails untouched.
  private func refreshPrefix(_ inner: InnerNode) { if keysAreBytes { inner.refreshPrefix(all: true) } }

  private func setRoot(_ node: UInt32, height: Int) {
    nvm_store_release(rootWord, UInt64(node) | UInt64(height) << 32)
  }

  /// The inner nodes from the root down to the key's leaf.
  private func path(to key: SearchKey) -> [Step] {
    var steps: [Step] = []
    var node = root
    for _ in 0..<height {
      let inner = space.inner(node)
      let index = inner.childIndex(for: key)
      steps.append(Step(node: node, index: index))
      node = inner.child(index)
    }
    return steps
  }

  /// The inner node over the key's leaf, and which of its children that is; nil where the leaf is the root.
  private func lowestInner(over key: SearchKey) -> (inner: InnerNode, index: Int)? {
    var height = height
    guard height > 0 else { return nil }
    var inner = space.inner(root)
    while true {
      let index = inner.childIndex(for: key)
      height &-= 1
      if height == 0 { return (inner, index) }
      inner = space.inner(inner.child(index))
    }
  }

  /// The shortest key s with lower < s ≤ key, so that separators of long keys stay short. Owned by the caller.
  func makeSeparator(_ key: SearchKey, above lower: SearchKey?) -> (
    head: UInt64, tail: UnsafeMutableRawPointer?
  ) {
    guard let bytes = key.bytes else { return (key.head, nil) }
    var count = key.count
    if let lower, lower.head == key.head, let other = lower.bytes {
      var common = 0
      while common < min(lower.count, key.count),
        bytes.load(fromByteOffset: common, as: UInt8.self)
          == other.load(fromByteOffset: common, as: UInt8.self)
      {
        common += 1
      }
      count = min(common + 1, key.count)
    } else {
      // The heads differ within the first eight bytes.
      count = min(8, key.count)
    }
    let tail = UnsafeMutableRawPointer.allocate(byteCount: 8 + count, alignment: 8)
    tail.storeBytes(of: UInt64(count), as: UInt64.self)
    (tail + 8).copyMemory(from: bytes, byteCount: count)
    return (key.head, tail)
  }

  /// Enters leaf `right`, split from `left`, into the inner nodes. Called with `left` locked.
  func insertSeparator(_ key: SearchKey, above lower: SearchKey?, left: UInt32, right: UInt32) {
    var (head, tail) = makeSeparator(key, above: lower)
    structure.withLock { _ in
      if let (inner, index) = lowestInner(over: key), inner.count < innerCapacity {
        assert(inner.child(index) == left)
        inner.lock()
        inner.insert(at: index, head: head, tail: tail, child: right, keysAreBytes: keysAreBytes)
        return inner.unlock()
      }
      let steps = path(to: key)
      assert(steps.isEmpty ? root == left : space.inner(steps.last!.node).child(steps.last!.index) == left)
      // Nodes that split stay locked until the parent knows their halves.
      var locked: [InnerNode] = []
      var child = right
      var level = steps.count - 1
      while level >= 0 {
        let step = steps[level]
        let inner = space.inner(step.node)
        inner.lock()
        locked.append(inner)
        if inner.count < innerCapacity {
          inner.insert(at: step.index, head: head, tail: tail, child: child, keysAreBytes: keysAreBytes)
          break
        }
        (head, tail, child) = split(inner, inserting: (head, tail, child), at: step.index)
        level -= 1
      }
      if level < 0 {
        let node = allocateInner()
        let inner = space.inner(node)
        inner.lock()
        inner.setChild(0, root)
        inner.setSeparator(0, head: head, tail: tail)
        inner.setChild(1, child)
        inner.count = 1
        refreshPrefix(inner)
        inner.unlock()
        setRoot(node, height: steps.count + 1)
      }
      for inner in locked { inner.unlock() }
    }
  }

  /// Splits a full, locked inner node around its middle and inserts on the way; returns the separator and the node
  /// for the parent.
  private func split(
    _ inner: InnerNode, inserting new: (head: UInt64, tail: UnsafeMutableRawPointer?, child: UInt32),
    at index: Int
  ) -> (UInt64, UnsafeMutableRawPointer?, UInt32) {
    let n = inner.count
    // Ascending inserts at the right edge leave the left node nearly full.
    let middle = index == n ? n - 1 : n / 2
    let node = allocateInner()
    let right = space.inner(node)
    right.lock()
    for i in middle + 1..<max(middle + 1, n) { right.copySeparator(i - middle - 1, from: inner, i) }
    for i in middle + 1...n { right.setChild(i - middle - 1, inner.child(i)) }
    right.count = n - middle - 1
    let up = (inner.head(middle), inner.tail(middle), node)
    inner.count = middle
    // What each half shares may be more than what the whole did.
    refreshPrefix(inner)
    refreshPrefix(right)
    if index <= middle {
      inner.insert(
        at: index, head: new.head, tail: new.tail, child: new.child, keysAreBytes: keysAreBytes)
    } else {
      right.insert(
        at: index - middle - 1, head: new.head, tail: new.tail, child: new.child, keysAreBytes: keysAreBytes)
    }
    right.unlock()
    return up
  }

  /// Takes the leaf right of the key's leaf out of the inner nodes: its range goes to the key's leaf. Called with
  /// both locked.
  ///
  /// The separator between the two disappears. Where they have different parents, it stands in the lowest
  /// ancestor they share, and the first separator of the right subtree takes its place there.
  func removeRightNeighbour(of key: SearchKey, left: UInt32, right: UInt32) {
    structure.withLock { _ in
      let steps = path(to: key)
      assert(space.inner(steps.last!.node).child(steps.last!.index) == left)
      guard let fork = steps.lastIndex(where: { $0.index < space.inner($0.node).count }) else {
        assertionFailure("the last leaf has no right neighbour")
        return
      }
      // From the fork down the leftmost edge to the neighbour.
      var edge = [Step(node: steps[fork].node, index: steps[fork].index + 1)]
      while edge.count < steps.count - fork {
        edge.append(Step(node: space.inner(edge.last!.node).child(edge.last!.index), index: 0))
      }
      assert(space.inner(edge.last!.node).child(edge.last!.index) == right)
      let ancestor = space.inner(steps[fork].node)
      let separator = steps[fork].index
      let locked = edge.map { space.inner($0.node) }
      for inner in locked { inner.lock() }
      let gone = ancestor.tail(separator)
      // The lowest node on the edge that keeps a child after losing one.
      var level = edge.count - 1
      while level > 0, locked[level].count == 0 { level -= 1 }
      if level == 0 {
        ancestor.remove(separator: separator, child: separator + 1)
      } else {
        ancestor.copySeparator(separator, from: locked[level], 0)
        refreshPrefix(ancestor)
        locked[level].remove(separator: 0, child: 0)
      }
      for inner in locked { inner.unlock() }
      for emptied in edge[(level + 1)...] { freeInner(emptied.node) }
      if let gone { retire(.separator(gone)) }
      collapseRoot()
    }
  }

  /// A root with a single child gives way to it.
  private func collapseRoot() {
    while height > 0 {
      let node = root
      let inner = space.inner(node)
      guard inner.count == 0 else { return }
      inner.lock()
      setRoot(inner.child(0), height: height - 1)
      inner.unlock()
      freeInner(node)
    }
  }

  /// Builds balanced inner nodes over leaves in key order. Before the tree is shared, or with the structure lock.
  ///
  /// - Parameter leaves: each leaf with the separator before it (the first one's is not used).
  func buildInner(_ leaves: [(head: UInt64, tail: UnsafeMutableRawPointer?, node: UInt32)]) throws(NVMError) {
    var level = leaves
    var height = 0
    while level.count > 1 {
      let perNode = innerCapacity + 1
      let groups = (level.count + perNode - 1) / perNode
      var upper: [(head: UInt64, tail: UnsafeMutableRawPointer?, node: UInt32)] = []
      upper.reserveCapacity(groups)
      var start = 0
      for group in 0..<groups {
        if group & 1023 == 0 { try space.checkRoom() }
        let end = level.count * (group + 1) / groups
        let node = allocateInner()
        let inner = space.inner(node)
        inner.lock()
        inner.setChild(0, level[start].node)
        for i in start + 1..<max(start + 1, end) {
          inner.setSeparator(i - start - 1, head: level[i].head, tail: level[i].tail)
          inner.setChild(i - start, level[i].node)
        }
        inner.count = end - start - 1
        refreshPrefix(inner)
        inner.unlock()
        upper.append((level[start].head, level[start].tail, node))
        start = end
      }
      level = upper
      height += 1
    }
    setRoot(level[0].node, height: height)
  }

  /// Frees all inner nodes and separators. No reader may be left.
  func freeInnerNodes() {
    func visit(_ node: UInt32, _ height: Int) {
      let inner = space.inner(node)
      if height > 1 { for i in 0...inner.count { visit(inner.child(i), height - 1) } }
      let n = inner.count
      inner.lock()
      inner.count = 0
      inner.unlock()
      if keysAreBytes { for i in 0..<n { inner.tail(i)?.deallocate() } }
      freeInner(node)
    }
    if height > 0 { visit(root, height) }
    setRoot(firstLeaf, height: 0)
  }
}
