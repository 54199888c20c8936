import NVMBTree
import NVMRegion

/// Puts encoded keys in order: by their first eight bytes, digit by digit, and by all of them where these are the same.
struct KeyOrder {
  struct Item {
    /// The first bytes as a big-endian number, zeroes behind a shorter key.
    var head: UInt64
    var number: Int
  }
  /// From here on sorting by digits is faster than by comparisons.
  private static let leastForDigits = 200

  /// The numbers of `count` keys in the order of the keys. O(n log n); O(n) where the first bytes tell keys apart.
  static func sorted(count: Int, key: (Int) -> UnsafeRawBufferPointer) -> [Item] {
    var items: [Item] = []
    items.reserveCapacity(count)
    for i in 0..<count { items.append(Item(head: head(key(i)), number: i)) }
    func precedes(_ a: Item, _ b: Item) -> Bool {
      a.head != b.head ? a.head < b.head : KeyBytes.compare(key(a.number), key(b.number)) < 0
    }
    guard count >= leastForDigits else {
      items.sort(by: precedes)
      return items
    }
    items.sortByDigits { $0.head }
    // Those alike in their heads stand together now.
    var i = 0
    while i < count {
      var end = i + 1
      while end < count, items[end].head == items[i].head { end += 1 }
      if end > i + 1 { items[i..<end].sort(by: precedes) }
      i = end
    }
    return items
  }

  @inline(__always)
  private static func head(_ key: UnsafeRawBufferPointer) -> UInt64 {
    if key.count >= 8 { return UInt64(bigEndian: key.loadUnaligned(as: UInt64.self)) }
    var head: UInt64 = 0
    for i in 0..<8 { head = head << 8 | (i < key.count ? UInt64(key[i]) : 0) }
    return head
  }
}
