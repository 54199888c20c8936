import NVMRegion

/// Which leaf numbers of the tree's extents are free. DRAM only: the truth is the chain.
struct NodePool: Sendable {
  // Touched only with the pool's lock, once it is in a pool.
  final class Extent: @unchecked Sendable {
    let first: UInt32
    let count: Int
    let payload: Offset
    /// Bit set: free.
    var free: [UInt64]
    var freeCount = 0
    /// No word before this one has a free bit.
    private var searchWord = 0

    init(payload: Offset, byteCount: Int) {
      self.payload = payload
      first = UInt32(truncatingIfNeeded: (payload.rawValue + UInt64(LeafLayout.size) - 1) >> LeafLayout.shift)
      let start = Int(first) << Int(LeafLayout.shift)
      count = max(0, (payload.bytes + byteCount - start) >> Int(LeafLayout.shift))
      free = [UInt64](repeating: 0, count: (count + 63) / 64)
    }
    func contains(_ node: UInt32) -> Bool { node >= first && node - first < UInt32(count) }
    func setFree(_ node: UInt32) {
      let i = Int(node - first)
      assert(free[i >> 6] & 1 << UInt64(i & 63) == 0, "a node is freed twice")
      free[i >> 6] |= 1 << UInt64(i & 63)
      freeCount += 1
      searchWord = min(searchWord, i >> 6)
    }
    func take() -> UInt32? {
      guard freeCount > 0 else { return nil }
      for w in searchWord..<free.count where free[w] != 0 {
        searchWord = w
        let bit = free[w].trailingZeroBitCount
        free[w] &= free[w] - 1
        freeCount -= 1
        return first + UInt32(w * 64 + bit)
      }
      return nil
    }
  }

  /// By first leaf number.
  private(set) var extents: [Extent] = []
  private var current: Extent?
  /// Whether large pages were asked for.
  var isSpread = false
  private(set) var freeCount = 0
  var nodeCount: Int { extents.reduce(0) { $0 + $1.count } }

  func extent(of node: UInt32) -> Extent? {
    var low = 0
    var high = extents.count
    while low < high {
      let middle = (low + high) / 2
      if extents[middle].first <= node { low = middle + 1 } else { high = middle }
    }
    guard low > 0, extents[low - 1].contains(node) else { return nil }
    return extents[low - 1]
  }

  /// Adds an extent whose nodes are all in use (recovery frees the others) or all free.
  mutating func add(_ extent: Extent, allFree: Bool) {
    let at = extents.firstIndex { $0.first > extent.first } ?? extents.count
    extents.insert(extent, at: at)
    guard allFree else { return }
    for i in 0..<extent.count { extent.setFree(extent.first + UInt32(i)) }
    freeCount += extent.count
    current = extent
  }

  mutating func take() -> UInt32? {
    guard freeCount > 0 else { return nil }
    if current == nil || current!.freeCount == 0 { current = extents.first { $0.freeCount > 0 } }
    guard let node = current?.take() else { return nil }
    freeCount -= 1
    return node
  }

  /// Frees a node; returns an extent that is wholly free now and can go back to the heap, taken out already.
  /// A little more than an extent's worth of nodes is kept, so that a tree does not flutter.
  mutating func put(_ node: UInt32, keeping: Bool = false) -> Extent? {
    guard let extent = extent(of: node) else { return nil }
    extent.setFree(node)
    freeCount += 1
    guard !keeping, extent.freeCount == extent.count, freeCount >= extent.count + extent.count / 2 else {
      return nil
    }
    return remove(extent)
  }

  private mutating func remove(_ extent: Extent) -> Extent {
    extents.removeAll { $0 === extent }
    freeCount -= extent.freeCount
    if current === extent { current = nil }
    return extent
  }

  /// Takes out every extent that is wholly free.
  mutating func takeUnused() -> [Extent] {
    extents.filter { $0.freeCount == $0.count && $0.count > 0 }.map { remove($0) }
  }
}
