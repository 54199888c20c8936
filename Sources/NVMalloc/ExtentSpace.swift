import CNVM
import NVMRegion

/// The heap's units in memory, under the extent lock.
struct ExtentSpace: @unchecked Sendable {
  var runs: FreeRuns
  var header: HeapHeader
  /// The header copy that holds.
  var newestCopy: Int
  var slabUnits = 0
  var setAsideUnits = 0
  /// Units whose heads were joined to the extent before them, durably, and are to be zeroed with the next change.
  var staleHeads: [Int] = []
  var spareSlabs: UnsafeMutablePointer<Slab>?
  /// Words of ``PendingSlabs`` in front that ``PersistentHeap/adoptSome(_:)`` has been through.
  var adoptedWords = 0

  init(runs: FreeRuns, header: HeapHeader, newestCopy: Int) {
    self.runs = runs
    self.header = header
    self.newestCopy = newestCopy
  }
}
