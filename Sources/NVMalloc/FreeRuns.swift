/// The free runs of units, in memory: coalesced at once, found by size. Guarded by the heap's extent lock.
///
/// Bins by size, four to a doubling; within a bin the run freed longest ago comes first.
struct FreeRuns: @unchecked Sendable {
  private static let binCount = 112
  private let map: UnitMap
  private let bins: UnsafeMutablePointer<UnitList>
  private var occupied: (UInt64, UInt64) = (0, 0)
  private(set) var unitCount = 0
  private(set) var runCount = 0

  init(_ map: UnitMap) {
    self.map = map
    bins = .allocate(capacity: Self.binCount)
    bins.initialize(repeating: UnitList(), count: Self.binCount)
  }
  func deallocate() { bins.deallocate() }

  private static func bin(_ n: Int) -> Int {
    let b = Int.bitWidth - 1 - n.leadingZeroBitCount
    return b < 2 ? n : (b - 1) * 4 + ((n >> (b - 2)) & 3)
  }
  private func isOccupied(_ bin: Int) -> Bool {
    (bin < 64 ? occupied.0 >> UInt64(bin) : occupied.1 >> UInt64(bin - 64)) & 1 != 0
  }
  private mutating func setOccupied(_ bin: Int, _ flag: Bool) {
    let bit: UInt64 = 1 << UInt64(bin & 63)
    if bin < 64 {
      occupied.0 = flag ? occupied.0 | bit : occupied.0 & ~bit
    } else {
      occupied.1 = flag ? occupied.1 | bit : occupied.1 & ~bit
    }
  }

  /// Length of the free run that starts at `unit`, or 0.
  func length(at unit: Int) -> Int {
    let word = map.word(unit)
    return UnitMap.tag(word) == UnitMap.Tag.free ? UnitMap.length(word) : 0
  }

  /// The head of the free run that ends just before `unit`.
  private func runEnding(before unit: Int) -> Int? {
    guard unit > 0 else { return nil }
    let head = Int(map.entries[unit - 1].headPlus1) - 1
    guard head >= 0, head < unit else { return nil }
    return length(at: head) == unit - head ? head : nil
  }

  /// Adds a run and joins it with its neighbours. O(1).
  mutating func insert(_ start: Int, _ count: Int, limit: Int) {
    var start = start
    var count = count
    if start + count < limit {
      let right = length(at: start + count)
      if right > 0 {
        remove(start + count)
        map.setWord(start + count, 0)
        count += right
      }
    }
    if let left = runEnding(before: start) {
      let n = start - left
      remove(left)
      map.setWord(start, 0)
      start = left
      count += n
    }
    map.set(start, tag: UnitMap.Tag.free, length: count)
    map.entries[start + count - 1].headPlus1 = UInt32(start + 1)
    let bin = Self.bin(count)
    bins[bin].append(start, map)
    setOccupied(bin, true)
    unitCount += count
    runCount += 1
  }

  /// Takes the run that starts at `start` out of its bin. O(1).
  mutating func remove(_ start: Int) {
    let count = length(at: start)
    assert(count > 0)
    let bin = Self.bin(count)
    bins[bin].remove(start, map)
    if bins[bin].isEmpty { setOccupied(bin, false) }
    unitCount -= count
    runCount -= 1
  }

  /// A run that has room for `count` units from a multiple of `alignment` on. O(1) unless runs of that very
  /// size are many and none fits.
  func find(_ count: Int, alignment: Int) -> Int? {
    for limit in [64, Int.max] {
      for bin in Self.bin(count)..<Self.binCount where isOccupied(bin) {
        var at = bins[bin].first
        var left = limit
        while left > 0, let start = UnitList.unit(at) {
          let first = (start + alignment - 1) & ~(alignment - 1)
          if first + count <= start + length(at: start) { return start }
          at = map.entries[start].next
          left -= 1
        }
      }
    }
    return nil
  }

  /// The longest run, in units.
  var longest: Int {
    for bin in stride(from: Self.binCount - 1, through: 0, by: -1) where isOccupied(bin) {
      var best = 0
      var at = bins[bin].first
      while let start = UnitList.unit(at) {
        best = max(best, length(at: start))
        at = map.entries[start].next
      }
      return best
    }
    return 0
  }
}
