extension PersistentHeap {
  /// Bytes of a unit: extents are multiples of it. A block with this alignment (or a larger one) is an extent
  /// of its own, aligned to the unit, and is enumerated without reading any block header.
  public var extentUnit: Int { 1 << unitShift }

  /// Whether a unit belongs to a slab whose blocks were read: for tests.
  package func isScanned(unit: Int) -> Bool {
    unit < unitCount && UnitMap.slab(map.word(unit))?.isScanned == true
  }

  /// How many slabs that were there at open have no descriptor yet: for tests.
  package var pendingSlabCount: Int { pending.number }
}
