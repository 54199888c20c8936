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
  /// As many alike in a digit are put in order one by one.
  private static let mostAlike = 16

  /// The numbers of `count` keys in the order of the keys. O(n log n); O(n) where the first bytes tell keys apart.
  static func sorted(count: Int, key: (Int) -> UnsafeRawBufferPointer) -> [Item] {
    var items: [Item] = []
    items.reserveCapacity(count)
    for i in 0..<count { items.append(Item(head: head(key(i)), number: i)) }
    func precedes(_ a: Item, _ b: Item) -> Bool {
      a.head != b.head ? a.head < b.head : KeyBytes.compare(key(a.number), key(b.number)) < 0
    }
    guard count >= leastForDigits else {
      if spread(&items) {
        insert(&items, precedes)
      } else {
        items.sort(by: precedes)
      }
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

  /// Puts few items in order by the first eight bits in which any two heads differ, so that hardly any is far from its
  /// place. False, and they stay as they are, where many are alike in these.
  private static func spread(_ items: inout [Item]) -> Bool {
    guard let first = items.first else { return true }
    var differing: UInt64 = 0
    for item in items { differing |= item.head ^ first.head }
    guard differing != 0 else { return items.count <= mostAlike }
    let shift = UInt64(max(0, 56 - differing.leadingZeroBitCount))
    let from = items
    return withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 256) { starts in
      starts.initialize(repeating: 0)
      var most: UInt8 = 0
      for item in from {
        let digit = Int(item.head &>> shift & 0xFF)
        starts[digit] &+= 1
        most = max(most, starts[digit])
      }
      guard most <= mostAlike else { return false }
      var sum: UInt8 = 0
      for i in 0..<256 { (starts[i], sum) = (sum, sum &+ starts[i]) }
      for item in from {
        let digit = Int(item.head &>> shift & 0xFF)
        items[Int(starts[digit])] = item
        starts[digit] &+= 1
      }
      return true
    }
  }

  /// Sorts items that are nearly in order. O(n · how far they are from their places).
  private static func insert(_ items: inout [Item], _ precedes: (Item, Item) -> Bool) {
    items.withUnsafeMutableBufferPointer { items in
      for i in stride(from: 1, to: items.count, by: 1) {
        let item = items[i]
        var at = i
        while at > 0, precedes(item, items[at &- 1]) {
          items[at] = items[at &- 1]
          at &-= 1
        }
        items[at] = item
      }
    }
  }

  @inline(__always)
  private static func head(_ key: UnsafeRawBufferPointer) -> UInt64 {
    if key.count >= 8 { return UInt64(bigEndian: key.loadUnaligned(as: UInt64.self)) }
    var head: UInt64 = 0
    for i in 0..<8 { head = head << 8 | (i < key.count ? UInt64(key[i]) : 0) }
    return head
  }
}
