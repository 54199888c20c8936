import CNVM
import NVMRegion

extension PersistentHeap {
  /// What the heap holds. Approximate while other threads are at work. Scans slabs that were not needed
  /// since opening: O(slabs), plus once O(their blocks).
  public var statistics: HeapStatistics {
    var s = HeapStatistics()
    guard (try? checkUsable()) != nil else { return s }
    adoptAll()
    s.recovery = recovery
    s.damagedHeaders = Int(nvm_load_relaxed(control + Control.damaged))
    var slabBytes = 0
    for i in 0..<classCount {
      var k = HeapStatistics.SizeClass()
      for c in shares.all(i) {
        lock(of: c).lock()
        defer { lock(of: c).unlock() }
        k.blockSize = c.pointee.blockBytes
        k.slabs += c.pointee.slabCount
        var next = c.pointee.anySlab
        while let slab = next {
          next = slab.pointee.nextOfClass
          if !slab.isScanned { scan(c, slab) }
          k.free += slab.pointee.freeCount
          k.damaged += slab.pointee.damaged
          k.unformatted += slab.pointee.blockCount - slab.pointee.mark
          slabBytes += slab.pointee.unitCount << unitShift
          if slab.pointee.isSetAside {
            s.damagedBytes += (slab.pointee.mark - slab.pointee.busy) * k.blockSize
          }
        }
        k.live += c.pointee.liveBlocks
        k.quarantined += c.pointee.quarantined
      }
      guard k.slabs > 0 else { continue }
      s.liveBlocks += k.live
      s.liveBytes += k.live * k.blockSize
      s.freeBytes += (k.free + k.unformatted) * k.blockSize
      s.quarantinedBlocks += k.quarantined
      s.quarantinedBytes += k.quarantined * k.blockSize
      s.damagedBytes += k.damaged * k.blockSize
      s.sizeClasses.append(k)
    }
    extents.withLock { space in
      s.totalBytes = space.header.unitCount << unitShift
      // So that they count among the runs.
      giveSparesBack(&space, settling: false)
      var liveUnits = 0
      for share in shares.allObjects() {
        lock(of: share).lock()
        defer { lock(of: share).unlock() }
        s.largeObjects += share.pointee.liveObjects
        s.largeObjectBytes += share.pointee.liveBytes
        liveUnits += share.pointee.words.liveUnits
        s.quarantinedBlocks += share.pointee.restingCount
        s.quarantinedBytes += share.pointee.words.restingUnits << unitShift
      }
      s.liveBlocks += s.largeObjects
      s.liveBytes += liveUnits << unitShift
      s.freeExtentBytes = space.runs.unitCount << unitShift
      s.freeBytes += s.freeExtentBytes
      s.freeRuns = space.runs.runCount
      s.largestFreeRun = space.runs.longest << unitShift
      s.damagedBytes += space.setAsideUnits << unitShift
      s.metadataBytes =
        (tableUnits(space.header.tableCapacity) << unitShift) + space.header.lanesOffset.bytes
        + space.header.laneCount * space.header.laneSize
    }
    return s
  }
}
