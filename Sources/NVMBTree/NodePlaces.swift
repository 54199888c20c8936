/// Where each node of a tree's extents stands in recovery's tables: the nodes of all extents in a row. O(1), where a
/// search would cost more than the rest of following a link.
struct NodePlaces {
  private struct Run {
    var first: UInt32
    var count: UInt32
    var at: Int
  }
  private var runs: [Run] = []
  /// For each of the heap's units the run that begins or goes on there, or -1. A second one may begin there.
  private var runOfUnit: [Int32]
  private let shift: UInt32
  private(set) var count = 0

  /// - Parameters:
  ///   - extents: by first node.
  ///   - unit: what an extent is at least, in bytes: a power of two.
  init(_ extents: [NodePool.Extent], unit: Int) {
    let shift = UInt32(unit.trailingZeroBitCount) - UInt32(LeafLayout.shift)
    self.shift = shift
    let end = extents.last.map { (Int($0.first) + $0.count) >> Int(shift) + 1 } ?? 0
    runOfUnit = [Int32](repeating: -1, count: end)
    for extent in extents where extent.count > 0 {
      let last = extent.first + UInt32(extent.count - 1)
      for u in Int(extent.first >> shift)...Int(last >> shift) where runOfUnit[u] < 0 {
        runOfUnit[u] = Int32(runs.count)
      }
      runs.append(Run(first: extent.first, count: UInt32(extent.count), at: count))
      count += extent.count
    }
  }

  /// The place of a node; nil for what is none.
  @inline(__always) subscript(node: UInt32) -> Int? {
    let unit = Int(node >> shift)
    guard unit < runOfUnit.count, case let r = Int(runOfUnit[unit]), r >= 0 else { return nil }
    var run = runs[r]
    if node &- run.first >= run.count {
      guard r + 1 < runs.count else { return nil }
      run = runs[r + 1]
      guard node &- run.first < run.count else { return nil }
    }
    return run.at &+ Int(node &- run.first)
  }
}
