import NVMBTree
public import NVMRegion
public import NVMalloc

/// Figures of a store at one moment.
public struct StoreStatistics: Sendable {
  /// Bytes of the file.
  public internal(set) var size = 0
  /// The most it can grow to while open.
  public internal(set) var maximumSize = 0
  public internal(set) var media = RegionMedia.inPlaceFile
  /// Trees in the catalogue.
  public internal(set) var treeCount = 0
  public internal(set) var heap: HeapStatistics
  /// Fences, lines and bytes since opening.
  public internal(set) var counters = RegionCounters()

  init(heap: HeapStatistics) { self.heap = heap }
}

extension NVMStore {
  /// Figures of this moment. O(size classes + thread slots); approximate while others are at work.
  public var statistics: StoreStatistics {
    var result = StoreStatistics(heap: heap.statistics)
    result.size = region.size
    result.maximumSize = region.maximumSize
    result.media = region.media
    result.treeCount = state.withLock { $0.entries.count }
    result.counters = region.counters
    return result
  }
}
