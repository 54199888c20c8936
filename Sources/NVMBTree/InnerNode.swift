import CNVM
import Glibc

/// An inner node: DRAM only, 1,280 bytes, rebuilt from the leaves at open.
///
///     0    8  version: bit 0 set while a structure change is under way
///     8    8  number of separators
///    16   32  separator heads 15, 31, 47 and 63 once more: which lines to look at, for those that have time to wait
///    48   16  length of the separators' common prefix, and the head they share: see InnerNode+Prefix.swift
///    64  160  the guide: 16 bits of each head, by which a descent finds its child (`nvm_inner_guide`)
///   224   16  the head that the guide counts from, and how many low bits it drops
///   256  320  80 children (node numbers; leaf numbers in the lowest level)
///   576  640  80 separator heads, the last 80 - number of them all ones: a search compares all 80 and branches on none
///
/// A descent looks at the nine lines before the heads, and at those only when the guide does not tell.
///
/// Child i holds the keys k with separator[i-1] ≤ k < separator[i]. A separator longer than 7 bytes has its
/// full bytes behind a pointer in the `tails` half (a length word, then the bytes), touched only when heads
/// tie, and where all of them tie only when what follows their common prefix does, too.
///
/// Readers are optimistic: they read without a lock and check the version afterwards. All words are read by
/// atomic loads; a count is clamped, so that a torn view cannot lead out of the node.
struct InnerNode {
  static let size = Int(NVM_INNER_SIZE)
  static let capacity = Int(NVM_INNER_CAPACITY)
  static let slots = Int(NVM_SEARCH_WORDS)
  private static let pivots = Int(NVM_INNER_PIVOTS)
  private static let heads = Int(NVM_INNER_HEADS)
  private static let children = Int(NVM_INNER_CHILDREN)

  let base: UnsafeMutableRawPointer
  let tails: UnsafeMutableRawPointer

  @inline(__always) var version: UnsafeMutableRawPointer { base }
  @inline(__always) var count: Int {
    // Raised only when the separators are in place: a reader follows the tail of any separator within the count.
    get { min(Int(truncatingIfNeeded: nvm_load_acquire(base + Int(NVM_INNER_COUNT))), Self.capacity) }
    nonmutating set {
      let old = count
      for i in newValue..<max(newValue, old) { setHead(i, .max) }
      if prefixLength > 0, old > newValue { clearRest(newValue..<old) }
      nvm_store_release(base + Int(NVM_INNER_COUNT), UInt64(newValue))
    }
  }
  @inline(__always) func head(_ i: Int) -> UInt64 { nvm_load_relaxed(base + (Self.heads &+ 8 &* i)) }
  @inline(__always) private func setHead(_ i: Int, _ head: UInt64) {
    nvm_store_relaxed(base + (Self.heads &+ 8 &* i), head)
    if i & 15 == 15, i < 64 { nvm_store_relaxed(base + (Self.pivots &+ 8 &* (i &>> 4)), head) }
  }
  @inline(__always) func child(_ i: Int) -> UInt32 { nvm_load32_relaxed(base + (Self.children &+ 4 &* i)) }
  @inline(__always) func setChild(_ i: Int, _ node: UInt32) {
    nvm_store32_relaxed(base + (Self.children &+ 4 &* i), node)
  }

  @inline(__always) func separator(_ i: Int) -> SearchKey {
    let head = head(i)
    guard let tail = UnsafeRawPointer(bitPattern: UInt(nvm_load_relaxed(tails + (Self.pointers &+ 8 &* i))))
    else {
      return SearchKey(head: head)
    }
    return SearchKey(head: head, bytes: tail + 8, count: Int(tail.load(as: UInt64.self)))
  }
  @inline(__always) func tail(_ i: Int) -> UnsafeMutableRawPointer? {
    UnsafeMutableRawPointer(bitPattern: UInt(nvm_load_relaxed(tails + (Self.pointers &+ 8 &* i))))
  }
  @inline(__always) func setSeparator(_ i: Int, head: UInt64, tail: UnsafeMutableRawPointer?) {
    setHead(i, head)
    // Trees of short keys leave the memory of tails untouched.
    if tail != self.tail(i) {
      nvm_store_relaxed(tails + (Self.pointers &+ 8 &* i), UInt64(UInt(bitPattern: tail)))
    }
  }
  @inline(__always) func copySeparator(_ i: Int, from other: InnerNode, _ j: Int) {
    setSeparator(i, head: other.head(j), tail: other.tail(j))
  }

  /// How many separators are ≤ the key: the child to follow.
  @inline(__always) func childIndex(for key: SearchKey) -> Int {
    guard key.bytes != nil else { return Int(nvm_inner_child(base, key.head)) }
    if case let prefix = prefixLength, prefix > 0 {
      return childIndex(for: key, prefix: prefix, orEqual: true)
    }
    let n = count
    let upper = upperBound(key.head, n)
    guard upper > 0, head(upper &- 1) == key.head else { return upper }
    return tieBreak(key, lowerBound(key.head, upper), upper, true)
  }

  // The same in two steps, for groups of keys that fetch their lines side by side: two lines of separators and one or
  // two of children in the place of all.

  /// Which sixteen separators decide.
  @inline(__always) func part(for head: UInt64) -> Int {
    var part = 0
    for pivot in 0..<4 { part &+= nvm_load_relaxed(base + (Self.pivots &+ 8 &* pivot)) <= head ? 1 : 0 }
    return part
  }
  @inline(__always) func prefetch(part: Int) {
    if prefixLength > 0 { return prefetchTails() }
    let lines = base + (Self.heads &+ 128 &* part)
    nvm_prefetch(lines)
    nvm_prefetch(lines + 64)
    nvm_prefetch(base + (Self.children &+ 64 &* part))
  }
  /// As `childIndex(for:)`.
  @inline(__always) func childIndex(for key: SearchKey, part: Int) -> Int {
    if key.bytes != nil, case let prefix = prefixLength, prefix > 0 {
      return childIndex(for: key, prefix: prefix, orEqual: true)
    }
    let words = (base + (Self.heads &+ 128 &* part)).assumingMemoryBound(to: UInt64.self)
    let upper = min(16 &* part &+ Int(nvm_count_le16(words, key.head)), count)
    guard key.bytes != nil, upper > 0, head(upper &- 1) == key.head else { return upper }
    return tieBreak(key, lowerBound(key.head, upper), upper, true)
  }

  /// How many separators are < the key: the child that holds what comes just before it.
  @inline(__always) func childIndex(before key: SearchKey) -> Int {
    if key.bytes != nil, case let prefix = prefixLength, prefix > 0 {
      return childIndex(for: key, prefix: prefix, orEqual: false)
    }
    let n = count
    let upper = upperBound(key.head, n)
    if key.bytes == nil {
      return upper > 0 && head(upper &- 1) == key.head ? lowerBound(key.head, upper) : upper
    }
    guard upper > 0, head(upper &- 1) == key.head else { return upper }
    return tieBreak(key, lowerBound(key.head, upper), upper, false)
  }

  /// Binary search in a range of separators by their full bytes: how many up to its end are smaller than the key, or
  /// equal where `orEqual`.
  @inline(never)
  func tieBreak(_ key: SearchKey, _ lower: Int, _ upper: Int, _ orEqual: Bool) -> Int {
    var low = lower
    var high = upper
    while low < high {
      let middle = (low &+ high) &>> 1
      let order = separator(middle).compare(key)
      if order < 0 || orEqual && order == 0 { low = middle &+ 1 } else { high = middle }
    }
    return low
  }

  @inline(__always) func prefetchChildren() {
    for line in 0..<5 { nvm_prefetch(base + (Self.children &+ 64 &* line)) }
  }
  @inline(__always) private func upperBound(_ key: UInt64, _ n: Int) -> Int {
    // The children's lines arrive while the separators are compared.
    prefetchChildren()
    let words = (base + Self.heads).assumingMemoryBound(to: UInt64.self)
    return min(Int(nvm_count_le(words, key)), n)
  }
  @inline(__always) private func lowerBound(_ key: UInt64, _ n: Int) -> Int {
    var low = 0
    var high = n
    while low < high {
      let middle = (low &+ high) &>> 1
      if head(middle) < key { low = middle &+ 1 } else { high = middle }
    }
    return low
  }

  /// Makes a node of untouched memory.
  func initialize() { for i in 0..<Self.slots { setHead(i, .max) } }

  // Changes, called with the structure lock and the node's version odd.

  func lock() {
    nvm_store_relaxed(version, nvm_load_relaxed(version) | 1)
    // The odd version is seen before any change.
    nvm_seqcst_fence()
  }
  func unlock() {
    nvm_inner_guide(base)
    nvm_store_release(version, (nvm_load_relaxed(version) | 1) &+ 1)
  }

  /// Inserts a separator at `i` and the child behind it.
  func insert(
    at i: Int, head: UInt64, tail: UnsafeMutableRawPointer?, child node: UInt32, keysAreBytes: Bool
  ) {
    let n = count
    if !keysAreBytes {
      return nvm_inner_insert(base, Int32(truncatingIfNeeded: n), Int32(truncatingIfNeeded: i), head, node)
    }
    let hasPrefix = prefixLength > 0
    var j = n
    while j > i {
      copySeparator(j, from: self, j - 1)
      if hasPrefix { moveRest(to: j, from: j - 1) }
      setChild(j + 1, child(j))
      j -= 1
    }
    setSeparator(i, head: head, tail: tail)
    setChild(i + 1, node)
    count = n + 1
    if let tail { insertRest(at: i, head: head, tail: tail) } else if hasPrefix { refreshPrefix(all: true) }
  }

  /// Removes separator `i` and child `j` (which is i or i + 1).
  func remove(separator i: Int, child j: Int) {
    let n = count
    let hasPrefix = prefixLength > 0
    for k in i..<max(i, n - 1) {
      copySeparator(k, from: self, k + 1)
      if hasPrefix { moveRest(to: k, from: k + 1) }
    }
    for k in j..<n { setChild(k, child(k + 1)) }
    count = n - 1
  }
}
