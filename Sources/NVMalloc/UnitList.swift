/// A list of extents, by their heads, linked through the unit map: the first come leaves first. Guarded by whatever guards
/// the extents in it.
struct UnitList {
  /// Units + 1; 0 where there is none.
  private(set) var first: UInt32 = 0
  private(set) var last: UInt32 = 0

  var isEmpty: Bool { first == 0 }

  /// The unit behind a link, or `nil`.
  static func unit(_ link: UInt32) -> Int? { link == 0 ? nil : Int(link) - 1 }

  /// O(1).
  mutating func append(_ unit: Int, _ map: UnitMap) {
    let link = UInt32(truncatingIfNeeded: unit + 1)
    map.entries[unit].next = 0
    map.entries[unit].previous = last
    if let last = Self.unit(last) { map.entries[last].next = link } else { first = link }
    last = link
  }

  /// O(1). `unit` is in the list.
  mutating func remove(_ unit: Int, _ map: UnitMap) {
    let entry = map.entries[unit]
    if let next = Self.unit(entry.next) {
      map.entries[next].previous = entry.previous
    } else {
      last = entry.previous
    }
    if let previous = Self.unit(entry.previous) {
      map.entries[previous].next = entry.next
    } else {
      first = entry.next
    }
  }
}
