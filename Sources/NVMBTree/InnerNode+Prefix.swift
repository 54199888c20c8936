import CNVM
import Glibc

/// What a node of separators with equal heads is searched by: what stands behind the prefix that they share.
///
/// Keys with a long common prefix (URLs, paths) tie in their heads, and each comparison of full bytes is a cache miss.
/// Here the search compares the key with the node's prefix once and then eight bytes behind it with all separators
/// at a time, as it does with heads; only separators that tie there, too, are looked at in full. (Prefix B-trees:
/// Bayer and Unterauer, ACM TODS 2(1), 1977; here the prefix is each node's own, and the separators stay whole.)
///
///     tails half:    0  128  the prefix: its whole words, then the word that ends with it
///                  128  640  80 heads of what follows the prefix, the last ones of them all ones
///                  768  640  80 pointers to the separators' full bytes
///
/// A node has a prefix (7 ≤ its length ≤ 120) only where all of its separators share their head, hence 7 bytes.
/// Everything is written under the node's odd version and read with atomic loads.
extension InnerNode {
  static let tailSize = 1408
  private static let longest = 120
  private static let rest = 128
  static let pointers = 768

  /// Bytes that all separators share, or 0 where the search does not use them. In the node's first line, which a
  /// search has at hand.
  @inline(__always) var prefixLength: Int {
    min(Int(truncatingIfNeeded: nvm_load_relaxed(base + 48)), Self.longest)
  }
  @inline(__always) private func setPrefixLength(_ count: Int) { nvm_store_relaxed(base + 48, UInt64(count)) }
  /// The head that all separators share.
  @inline(__always) private var commonHead: UInt64 { nvm_load_relaxed(base + 56) }

  @inline(__always) private func rest(_ i: Int) -> UInt64 { nvm_load_relaxed(tails + (Self.rest &+ 8 &* i)) }
  @inline(__always) private func setRest(_ i: Int, _ word: UInt64) {
    nvm_store_relaxed(tails + (Self.rest &+ 8 &* i), word)
  }

  // MARK: Searching

  @inline(__always) func prefetchTails() {
    for line in 0..<12 { nvm_prefetch(tails + 64 &* line) }
  }

  /// How many separators are left of the key: smaller, or equal where `orEqual`.
  ///
  /// - Parameter prefix: the node's prefix length, not 0.
  func childIndex(for key: SearchKey, prefix: Int, orEqual: Bool) -> Int {
    let n = count
    guard let bytes = key.bytes, key.head == commonHead else { return key.head < commonHead ? 0 : n }
    prefetchTails()
    // The children's lines arrive while the separators are compared.
    prefetchChildren()
    // A key that ends within the prefix: the full bytes decide.
    guard key.count >= prefix else { return tieBreak(key, 0, n, orEqual) }
    if prefix >= 8 {
      var at = 0
      for word in 0...prefix &>> 3 {
        // The last word overlaps the one before.
        let offset = min(at, prefix &- 8)
        let mine = UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
        let common = nvm_load_relaxed(tails + 8 &* word)
        if mine != common { return mine < common ? 0 : n }
        at &+= 8
      }
    }
    let word = Self.word(bytes, key.count, at: prefix)
    let words = (tails + Self.rest).assumingMemoryBound(to: UInt64.self)
    let upper = min(Int(nvm_count_le(words, word)), n)
    guard upper > 0, rest(upper &- 1) == word else { return upper }
    var lower = upper &- 1
    while lower > 0, rest(lower &- 1) == word { lower &-= 1 }
    return tieBreak(key, lower, upper, orEqual)
  }

  /// Eight bytes of a key of at least 8 bytes from `offset` on, big-endian, with zeros behind its end.
  @inline(__always)
  private static func word(_ bytes: UnsafeRawPointer, _ count: Int, at offset: Int) -> UInt64 {
    let rest = count &- offset
    if rest >= 8 { return UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)) }
    guard rest > 0 else { return 0 }
    let last = UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: count &- 8, as: UInt64.self))
    return last &<< UInt64(64 &- 8 &* rest)
  }

  // MARK: Keeping it

  /// Finds the separators' common prefix. Called after every change of a node of long keys, while it is locked.
  ///
  /// - Parameter all: whether what follows the prefix is to be written anew even if the prefix has its old length.
  func refreshPrefix(all: Bool) {
    let n = count
    guard n > 0, let first = tail(0), let last = tail(n - 1), head(0) == head(n - 1) else {
      return setPrefixLength(0)
    }
    // Ascending strings share what the first and the last of them share.
    let limit = min(Self.longest, first.load(as: Int.self), last.load(as: Int.self))
    var common = 7
    while common < limit,
      first.load(fromByteOffset: 8 + common, as: UInt8.self)
        == last.load(fromByteOffset: 8 + common, as: UInt8.self)
    { common += 1 }
    guard all || common != prefixLength else { return }
    nvm_store_relaxed(base + 56, head(0))
    if common >= 8 {
      for word in 0...common >> 3 {
        let offset = min(8 * word, common - 8)
        nvm_store_relaxed(
          tails + 8 * word,
          UInt64(bigEndian: first.loadUnaligned(fromByteOffset: 8 + offset, as: UInt64.self)))
      }
    }
    for i in 0..<Self.slots { setRest(i, i < n ? rest(of: tail(i), common) : .max) }
    setPrefixLength(common)
  }

  /// Makes a node that nobody reads any more one of short keys, which a tree of words expects: it never looks after tails.
  func forgetTails() {
    setPrefixLength(0)
    for i in 0..<Self.slots { nvm_store_relaxed(tails + (Self.pointers &+ 8 &* i), 0) }
  }

  private func rest(of tail: UnsafeMutableRawPointer?, _ prefix: Int) -> UInt64 {
    guard let tail else { return 0 }
    return Self.word(tail + 8, tail.load(as: Int.self), at: prefix)
  }

  /// Goes with a separator that moves within the node.
  @inline(__always) func moveRest(to i: Int, from j: Int) { setRest(i, rest(j)) }
  func clearRest(_ range: Range<Int>) { for i in range { setRest(i, .max) } }

  /// Takes a separator in that `insert(at:)` has just put at `i`.
  func insertRest(at i: Int, head: UInt64, tail: UnsafeMutableRawPointer) {
    let prefix = prefixLength
    let other = i == 0 ? 1 : 0
    guard prefix > 0, count > 1, head == commonHead, let sibling = self.tail(other),
      tail.load(as: Int.self) >= prefix,
      memcmp(tail + 8, sibling + 8, prefix) == 0
    else { return refreshPrefix(all: true) }
    setRest(i, rest(of: tail, prefix))
  }
}
