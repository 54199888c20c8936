/// How long a freed block rests before it may be handed out again, which spreads wear.
public enum QuarantinePolicy: Sendable, Equatable {
  /// At least this long, counted within one opening. The oldest is used earlier where the heap would else have
  /// to grow with more than ``HeapOptions/quarantineLimit`` bytes at rest, or cannot grow.
  case quarantine(Duration)
  /// Not at all.
  case none
}

/// Which of the small blocks that may be handed out is.
public enum PlacementPolicy: Sendable, Equatable {
  /// Free ones in the order of addresses, then the one that has rested longest.
  case automatic
  /// Of up to 64 candidates the one allocated least often over the life of the file. Needs a region that counts wear
  /// (``RegionOptions/countsWear``); without one, as `automatic`.
  case leastAllocated
}

/// How a heap behaves while open, and, at format, how it is laid out.
public struct HeapOptions: Sendable {
  /// Default: 0.2 s.
  public var quarantine: QuarantinePolicy = .quarantine(.milliseconds(200))
  /// Bytes that may rest before the oldest of them are used again early instead of growing the heap; an eighth of
  /// the heap where that is more. 64 MiB hold what 5 million frees of 64-byte blocks a second leave in 0.2 s. Blocks
  /// beyond a KiB, each size for itself, rest up to an eighth of that or, once a quarter of it rests, up to a quarter of
  /// what is live of their size (a 64th of the limit at least); large objects together up to a quarter of what is live of
  /// them (a 16th at least, an eighth at most): to cycle through more is to work on pages that no cache holds.
  public var quarantineLimit: Int = 64 << 20
  public var placement: PlacementPolicy = .automatic
  /// The least the region grows by, in bytes, when the heap is full; more in a large region (an eighth of
  /// it).
  public var growthIncrement: Int = 4 << 20

  package var geometry = HeapGeometry()
  /// How many shares each size class begins with: more than one in tests only, see ``ClassShares``.
  package var shareCount = 1

  public init() {}
}

/// Sizes fixed at format. Defaults for real use; the smallest for tests that want splits, wraps and growth
/// soon.
package struct HeapGeometry: Sendable {
  /// log2 of the unit of extents, 10 ... 20. 16 KiB: objects are extents of their own from eight units on, so
  /// rounding wastes at most one eighth, and the table takes 64 bytes per unit, 0.4 %.
  package var unitShift = 14
  package var laneCount = 32
  /// Bytes, a multiple of 64, at least 256.
  package var laneSize = 4096
  package var rootCount = 256

  package init() {}
  package init(unitShift: Int, laneCount: Int, laneSize: Int, rootCount: Int) {
    (self.unitShift, self.laneCount, self.laneSize, self.rootCount) =
      (unitShift, laneCount, laneSize, rootCount)
  }
  /// For tests.
  package static let tiny = HeapGeometry(unitShift: 10, laneCount: 2, laneSize: 512, rootCount: 8)

  var isValid: Bool {
    (10...20).contains(unitShift) && (1...1024).contains(laneCount) && laneSize % 64 == 0
      && (256...(1 << 20)).contains(laneSize) && (1...65536).contains(rootCount)
  }
}
