import CNVM
import NVMRegion
import NVMalloc

// What can still be read of a tree whose chain of leaves is damaged.
//
// Opening follows the chain and seals the tree where it breaks: what is behind cannot be vouched for. To rescue it, the
// leaves that are whole are put together again by their links, wherever those still lead from one to the next:
//
//     first leaf ─▶ a ─▶ b ─▶ ✗        c ─▶ d ─▶ e ─▶ end        s ─▶ d
//     └───── segment ─────┘            └─ segment ──┘            given up long ago, never written since
//
// A node that was given up keeps its bytes, and may look like a leaf: `s`. So what no damaged node's link leads to is left out
// where it is short, where its way joins that of a longer segment, and where it would come to lie among others' keys.
struct TreeSalvage {
  let engine: TreeEngine
  private let extents: [NodePool.Extent]
  private let summaries: UnsafeMutableBufferPointer<LeafSummary>
  private let nodes: [UInt32]
  private let isTorn: Bool

  init(_ engine: TreeEngine) throws(NVMError) {
    self.engine = engine
    isTorn = !engine.region.wasCleanlyClosed
    extents = try engine.nodeExtents()
    summaries = engine.scan(extents, mayBeTorn: isTorn, nil)
    nodes = extents.flatMap { extent in (0..<extent.count).map { extent.first + UInt32($0) } }
  }
  func deallocate() { summaries.deallocate() }

  private func isReadable(_ i: Int) -> Bool { summaries[i].state != .corrupt }

  /// Whether all keys of one leaf are below those of another one.
  private func isOrdered(_ a: Int, _ b: Int) -> Bool {
    summaries[a].count == 0 || summaries[b].count == 0
      || engine.isBefore((nodes[a], summaries[a]), (nodes[b], summaries[b]))
  }

  /// The segments in the order of their keys: places of leaves.
  private func segments() -> [[Int]] {
    let places = NodePlaces(extents, unit: engine.heap.extentUnit)
    let count = nodes.count
    var next = [Int](repeating: -1, count: count)
    var isTarget = [Bool](repeating: false, count: count)
    for i in 0..<count where isReadable(i) && summaries[i].next != 0 {
      guard let to = places[summaries[i].next], isReadable(to), isOrdered(i, to) else { continue }
      next[i] = to
      isTarget[to] = true
    }
    // Nothing but the damaged one leads to such a leaf.
    let named = namedByDamaged(places)
    for i in 0..<count where next[i] >= 0 && named.contains(next[i]) { next[i] = -1 }
    for i in named { isTarget[i] = false }
    let lengths = lengths(next)
    // Where the header is lost, the longest way is taken to be the one from the first leaf.
    let first =
      places[engine.firstLeaf]
      ?? (0..<count).filter { isReadable($0) && summaries[$0].count > 0 && !isTarget[$0] }
      .max { lengths[$0] < lengths[$1] }
    var heads = (0..<count).filter {
      isReadable($0) && summaries[$0].count > 0 && !isTarget[$0] && $0 != first
        && (named.contains($0) || lengths[$0] >= Self.trustedLength)
    }
    heads.sort { lengths[$0] > lengths[$1] }
    if let first, isReadable(first) { heads.insert(first, at: 0) }
    var isTaken = [Bool](repeating: false, count: count)
    var hasEnd = false
    var segments: [[Int]] = []
    for head in heads where !isTaken[head] {
      var segment: [Int] = []
      var at = head
      while at >= 0, !isTaken[at] {
        isTaken[at] = true
        segment.append(at)
        at = next[at]
      }
      // Nor are there two ends.
      let isEnd = summaries[segment[segment.count - 1]].next == 0
      if at >= 0 || isEnd && hasEnd { continue }
      hasEnd = hasEnd || isEnd
      // What leads to the others and is not led to may have been given up.
      if head != first, !named.contains(head) { segment.removeFirst() }
      segments.append(segment.filter { summaries[$0].count > 0 })
    }
    return inOrder(segments)
  }

  /// So many leaves that lead from one to the next are believed to be the tree's, but for the first.
  private static let trustedLength = 4

  /// What the links of damaged nodes lead to, if they are not what is damaged.
  private func namedByDamaged(_ places: NodePlaces) -> Set<Int> {
    var named: Set<Int> = []
    for i in nodes.indices where !isReadable(i) {
      for alternate in [false, true] {
        if let to = places[engine.leaf(nodes[i]).next(alternate)] { named.insert(to) }
      }
    }
    return named
  }

  /// How many leaves there are from each one on to where its way ends. O(nodes).
  private func lengths(_ next: [Int]) -> [Int] {
    var lengths = [Int](repeating: 0, count: next.count)
    for start in next.indices where lengths[start] == 0 {
      var way: [Int] = []
      var at = start
      while at >= 0, lengths[at] == 0 {
        lengths[at] = -1
        way.append(at)
        at = next[at]
      }
      // Negative: a circle.
      var length = at >= 0 ? max(0, lengths[at]) : 0
      for i in way.reversed() {
        length += 1
        lengths[i] = length
      }
    }
    return lengths
  }

  /// The segments by their first keys, the longer ones before those that would lie among their keys, which are left out.
  private func inOrder(_ segments: [[Int]]) -> [[Int]] {
    var kept: [[Int]] = []
    for segment in segments where !segment.isEmpty {
      // The first kept one that is not wholly before it.
      var low = 0
      var high = kept.count
      while low < high {
        let middle = (low + high) / 2
        if isOrdered(kept[middle][kept[middle].count - 1], segment[0]) {
          low = middle + 1
        } else {
          high = middle
        }
      }
      guard low == kept.count || isOrdered(segment[segment.count - 1], kept[low][0]) else { continue }
      kept.insert(segment, at: low)
    }
    return kept
  }

  /// Calls `body` with head and word of each entry, in the order of keys, and `onDamage` between segments.
  func forEach(
    onDamage: (NVMError) -> Void, _ body: (_ head: UInt64, _ word: UInt64) throws -> Bool
  ) throws {
    let segments = segments()
    for what in engine.recovery.damage { onDamage(damage(what, nil)) }
    for (i, segment) in segments.enumerated() {
      if i > 0, let last = segments[i - 1].last {
        let text = "Entries may be missing behind leaf \(nodes[last]), up to leaf \(nodes[segment[0]])."
        onDamage(damage(text, UInt64(nodes[last]) << LeafLayout.shift))
      }
      for place in segment {
        for (head, word) in entries(nodes[place]) {
          guard try body(head, word) else { return }
        }
      }
    }
  }

  private func damage(_ text: String, _ offset: UInt64?) -> NVMError {
    NVMError(code: .corrupt, message: text, path: engine.region.path, offset: offset)
  }

  private func entries(_ node: UInt32) -> [(head: UInt64, word: UInt64)] {
    let leaf = engine.leaf(node)
    var rest = engine.examine(leaf, mayBeTorn: isTorn).live
    var entries: [(head: UInt64, word: UInt64)] = []
    while rest != 0 {
      let i = rest.trailingZeroBitCount
      rest &= rest - 1
      entries.append((leaf.head(i), leaf.word(i)))
    }
    entries.sort { a, b in
      if a.head != b.head { return a.head < b.head }
      guard engine.isLong(a.head), let x = engine.key(a.head, a.word), let y = engine.key(b.head, b.word)
      else {
        return false
      }
      return x.compare(y) < 0
    }
    return entries
  }
}
