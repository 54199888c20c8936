/// What a heap holds, counted in memory. Bytes are of whole blocks, headers included.
public struct HeapStatistics: Sendable {
  /// One size class of small blocks.
  public struct SizeClass: Sendable {
    /// Bytes of a block, header included.
    public var blockSize = 0
    public var slabs = 0
    /// Live blocks and reservations.
    public var live = 0
    /// Formatted, free, and usable at once.
    public var free = 0
    /// Freed and resting.
    public var quarantined = 0
    /// Room for blocks never used yet.
    public var unformatted = 0
    /// With a header that does not verify.
    public var damaged = 0
  }
  public var sizeClasses: [SizeClass] = []
  /// Bytes of the heap, its own tables included.
  public var totalBytes = 0
  /// Of the heap itself: headers, roots, lanes, extent table.
  public var metadataBytes = 0
  public var liveBytes = 0
  public var liveBlocks = 0
  public var freeBytes = 0
  public var quarantinedBytes = 0
  public var quarantinedBlocks = 0
  /// Set aside because of damage.
  public var damagedBytes = 0
  public var largeObjects = 0
  /// Bytes asked for by large objects.
  public var largeObjectBytes = 0
  /// Runs of free units.
  public var freeRuns = 0
  /// The largest block that fits without growth or use of what rests.
  public var largestFreeRun = 0
  /// Damaged headers met since opening.
  public var damagedHeaders = 0
  public var recovery = HeapRecovery()

  /// Share of the free extents' space that is not in the largest run: 0 when it is in one piece.
  public var fragmentation: Double {
    let free = freeExtentBytes
    return free == 0 ? 0 : 1 - Double(largestFreeRun) / Double(free)
  }
  /// Bytes in free extents.
  public var freeExtentBytes = 0
}
