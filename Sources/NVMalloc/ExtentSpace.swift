import CNVM
import NVMRegion

/// The heap's units in memory, under the extent lock.
struct ExtentSpace: @unchecked Sendable {
  struct Freed {
    var unit: Int
    var length: Int
    var tick: UInt32
  }
  var runs: FreeRuns
  var header: HeapHeader
  /// The header copy that holds.
  var newestCopy: Int
  /// Freed objects that rest, in the order of freeing from `firstFreed` on.
  var freed: [Freed] = []
  var firstFreed = 0
  var quarantinedUnits = 0 {
    didSet { nvm_store_relaxed(published, UInt64(quarantinedUnits)) }
  }
  var liveObjects = 0
  var objectUnits = 0
  var objectBytes = 0
  var slabUnits = 0
  var setAsideUnits = 0
  /// Units whose heads were joined to the extent before them, durably, and are to be zeroed with the next change.
  var staleHeads: [Int] = []
  var spareSlabs: UnsafeMutablePointer<Slab>?
  /// Words of ``PendingSlabs`` in front that ``PersistentHeap/adoptSome(_:)`` has been through.
  var adoptedWords = 0

  /// `quarantinedUnits`, for others to look at without the lock.
  let published: UnsafeMutableRawPointer

  init(runs: FreeRuns, header: HeapHeader, newestCopy: Int, published: UnsafeMutableRawPointer) {
    self.published = published
    self.runs = runs
    self.header = header
    self.newestCopy = newestCopy
  }

  var quarantinedCount: Int { freed.count - firstFreed }

  mutating func rest(_ unit: Int, _ length: Int, tick: UInt32) {
    freed.append(Freed(unit: unit, length: length, tick: tick))
    quarantinedUnits += length
  }
  func oldestHasRested(now: UInt32, ticks: UInt32) -> Bool {
    firstFreed < freed.count && now &- freed[firstFreed].tick >= ticks
  }
  mutating func popOldest() -> Freed? {
    guard firstFreed < freed.count else { return nil }
    let oldest = freed[firstFreed]
    firstFreed += 1
    if firstFreed > 64, firstFreed * 2 > freed.count {
      freed.removeFirst(firstFreed)
      firstFreed = 0
    }
    quarantinedUnits -= oldest.length
    return oldest
  }
}
