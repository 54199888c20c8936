import CNVM

/// The large objects of a share, in memory: what was freed and rests, and *spare* extents, which have rested and wait to be
/// used again as they are. Guarded by a lock on the line before it, as a ``SizeClass``.
///
///     object ──free──▶ resting ──has rested──▶ spare ──fits──▶ object
///                                               │
///                                               └──▶ a free run, joined with its neighbours: where there are too many,
///                                                    or a run is wanted that there is not
///
/// An extent that is used again as it is costs one line on the medium, its own head's; one cut off a run costs two or
/// three, and the extent lock.
struct ObjectShare {
  /// Resting ones, in the order of freeing. While an extent is in it, `previous` in the unit map is the tick that it was
  /// freed at.
  private var firstResting: UInt32 = 0
  private var lastResting: UInt32 = 0
  private(set) var restingCount = 0
  /// Lists of spare ones by length.
  private let bins: UnsafeMutablePointer<UnitList>
  private(set) var spareCount = 0
  /// Where ``popSpare(_:)`` goes on.
  private var nextBin = 0
  /// Of what this share's threads allocated, less what they freed: may be negative.
  private(set) var liveObjects = 0
  private(set) var liveBytes = 0
  /// From so many units on the oldest counts as rested.
  var restingLimit = Int.max
  /// So many times that limit is used before it is worked out again.
  var allowance = 0
  /// How often a thread has waited for the lock.
  var waits = 0
  let words: Words

  /// For threads without the lock to look at.
  struct Words {
    private let start: UnsafeMutableRawPointer
    init(_ start: UnsafeMutableRawPointer) { self.start = start }

    static let size = 32
    var restingUnits: Int { word(0) }
    var spareUnits: Int { word(8) }
    /// See ``ObjectShare/liveObjects``.
    var liveUnits: Int { word(16) }
    /// How often something was freed.
    var gains: Int { word(24) }

    fileprivate func addRestingUnits(_ n: Int) { add(0, n) }
    fileprivate func addSpareUnits(_ n: Int) { add(8, n) }
    fileprivate func addLiveUnits(_ n: Int) { add(16, n) }
    fileprivate func addGain() { add(24, 1) }

    private func word(_ at: Int) -> Int { Int(truncatingIfNeeded: nvm_load_acquire(start + at)) }
    private func add(_ at: Int, _ n: Int) {
      nvm_store_release(start + at, UInt64(bitPattern: Int64(word(at) &+ n)))
    }
  }

  init(words: Words) {
    self.words = words
    bins = .allocate(capacity: Self.binCount)
    bins.initialize(repeating: UnitList(), count: Self.binCount)
  }
  func deallocate() { bins.deallocate() }

  mutating func countObject(_ units: Int, _ byteCount: Int, _ objects: Int = 1) {
    liveObjects += objects
    liveBytes += byteCount
    words.addLiveUnits(units)
  }
  mutating func resizeObject(by bytes: Int) { liveBytes += bytes }

  // MARK: Resting

  mutating func rest(_ unit: Int, _ length: Int, tick: UInt32, _ map: UnitMap) {
    let link = UInt32(truncatingIfNeeded: unit + 1)
    map.entries[unit].next = 0
    map.entries[unit].previous = tick
    if let last = UnitList.unit(lastResting) { map.entries[last].next = link } else { firstResting = link }
    lastResting = link
    restingCount += 1
    words.addRestingUnits(length)
    words.addGain()
  }

  /// When the oldest was freed.
  func oldestTick(_ map: UnitMap) -> UInt32? {
    UnitList.unit(firstResting).map { map.entries[$0].previous }
  }

  mutating func popOldest(_ map: UnitMap) -> (unit: Int, length: Int)? {
    guard let unit = UnitList.unit(firstResting) else { return nil }
    firstResting = map.entries[unit].next
    if firstResting == 0 { lastResting = 0 }
    restingCount -= 1
    let length = UnitMap.length(map.word(unit))
    words.addRestingUnits(-length)
    return (unit, length)
  }

  /// Makes spare what has rested, and the oldest beyond the limit.
  mutating func settle(now tick: UInt32, ticks: UInt32, _ map: UnitMap) {
    while let since = oldestTick(map), tick &- since >= ticks || words.restingUnits > restingLimit {
      guard let (unit, length) = popOldest(map) else { return }
      bins[Self.bin(length)].append(unit, map)
      spareCount += 1
      words.addSpareUnits(length)
    }
  }

  // MARK: Spare ones

  /// By length: each for itself below 16, then eight to a doubling.
  private static let binCount = 216
  private static func bin(_ n: Int) -> Int {
    if n < 8 { return n }
    let b = Int.bitWidth - 1 - n.leadingZeroBitCount
    return 8 + (b - 3) * 8 + (n >> (b - 3)) & 7
  }
  /// So many of a bin are looked at.
  private static let looks = 4

  /// Takes a spare extent of `count` units and up to `slack` more. O(1).
  mutating func take(_ count: Int, slack: Int, _ map: UnitMap) -> (unit: Int, length: Int)? {
    guard spareCount > 0, Self.bin(count) < Self.binCount else { return nil }
    for bin in Self.bin(count)...min(Self.bin(count + slack), Self.binCount - 1) {
      var at = bins[bin].first
      var left = Self.looks
      while left > 0, let unit = UnitList.unit(at) {
        let length = UnitMap.length(map.word(unit))
        if length >= count, length <= count + slack {
          remove(unit, length, bin, map)
          return (unit, length)
        }
        at = map.entries[unit].next
        left -= 1
      }
    }
    return nil
  }

  /// Takes any spare extent: of all lengths in turn, of each the one that was freed first.
  mutating func popSpare(_ map: UnitMap) -> (unit: Int, length: Int)? {
    guard spareCount > 0 else { return nil }
    while true {
      nextBin = nextBin + 1 < Self.binCount ? nextBin + 1 : 0
      guard let unit = UnitList.unit(bins[nextBin].first) else { continue }
      let length = UnitMap.length(map.word(unit))
      remove(unit, length, nextBin, map)
      return (unit, length)
    }
  }

  private mutating func remove(_ unit: Int, _ length: Int, _ bin: Int, _ map: UnitMap) {
    bins[bin].remove(unit, map)
    spareCount -= 1
    words.addSpareUnits(-length)
  }
}
