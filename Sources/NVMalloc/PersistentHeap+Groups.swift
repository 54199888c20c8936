public import NVMRegion

extension PersistentHeap {
  /// Allocates a block that is durable when the group is: no fence of its own. Otherwise as
  /// ``allocate(byteCount:alignment:tag:owner:durability:)``; a crash before leaves the block or none, and it is found by its
  /// owner token.
  public func allocate(
    byteCount: Int, alignment: Int = 16, tag: BlockTag = .none, owner: OwnerToken = .none,
    in group: PersistGroup
  ) throws(NVMError) -> Offset {
    try region.check(group)
    let payload = try allocate(
      byteCount: byteCount, alignment: alignment, tag: tag, owner: owner, durability: .deferred)
    try noteHeader(of: payload, in: group)
    return payload
  }

  /// Frees a block; no crash brings it back when the group is persisted. Otherwise as ``deallocate(_:durability:)`` with
  /// `.deferred`: what referred to the block must be gone *durably* before, and the block may be used again, at any
  /// moment from the call on.
  public func deallocate(_ payload: Offset, in group: PersistGroup) throws(NVMError) {
    try region.check(group)
    // Afterwards its place may be somebody else's; but the table of extents may move before.
    let header = headerPlace(of: payload)
    try deallocate(payload, durability: .deferred)
    if let header { try region.note(header.offset, count: header.count, in: group) }
    if header?.count == ExtentEntry.size { try noteHeader(of: payload, in: group) }
  }

  private func noteHeader(of payload: Offset, in group: PersistGroup) throws(NVMError) {
    if let header = headerPlace(of: payload) {
      try region.note(header.offset, count: header.count, in: group)
    }
  }

  /// Where the header of a live block stands: before its payload, or in the extent table.
  private func headerPlace(of payload: Offset) -> (offset: Offset, count: Int)? {
    let unit = Int(truncatingIfNeeded: payload.rawValue >> UInt64(unitShift))
    guard unit >= 0, unit < unitCount else { return nil }
    if let slab = slab(ofUnit: unit) {
      return (Offset(rawValue: slab.offset(slab.index(of: payload.rawValue))), BlockHeader.size)
    }
    gate.enter()
    defer { gate.leave() }
    return (entry(unit), ExtentEntry.size)
  }
}
