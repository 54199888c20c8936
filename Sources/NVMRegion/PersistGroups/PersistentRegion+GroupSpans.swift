public import CNVM

// Changes of trees under a group. A tree names a change by the *stamp* that it gets: the thread's slot and the tick of
// its last change. Readers and later writers of a leaf find the stamp beside it, and settle it first.
//
// Their write-back is put off until there are some tens of lines: the next lock is an atomic instruction, and would wait
// for each of them.

extension PersistentRegion {
  /// From now on ``commitUnderGroup(leaf:lines:)`` puts the fences of this thread off until the group is waited for.
  /// False, and nothing is put off: on a journal, within another span, and for a thread that shares its slot.
  package func beginGroupSpan(_ group: PersistGroup) -> Bool {
    guard journal == nil, nvm_group_span() == nil else { return false }
    let slot = Int(nvm_thread_slot())
    guard let area = groups.records.area(slot) ?? makeArea(slot) else { return false }
    nvm_store_relaxed(area.current, group.id)
    nvm_set_group_span(area.base)
    return true
  }
  @inline(__always) package func endGroupSpan() { nvm_set_group_span(nil) }

  /// Whether this thread is in a span of this region.
  @inlinable @inline(__always) package var isInGroupSpan: Bool {
    guard let area = nvm_group_span() else { return false }
    return nvm_load_relaxed(area + Int(NVM_GROUP_OWNER)) == UInt64(UInt(bitPattern: baseAddress))
  }

  /// Notes a change of a leaf in the span of this thread: which of its eight lines, the first among them. Their
  /// write-back comes later.
  /// - Returns: the stamp of the change.
  package func commitUnderGroup(leaf: Offset, lines: UInt8) throws(NVMError) -> UInt64 {
    let area = GroupArea(base: nvm_group_span()!)
    let slot = Int(nvm_thread_slot())
    let records = groups.records
    let id = nvm_load_relaxed(area.current)
    let line = leaf.rawValue &>> 6
    var mustSettle = false
    // All changes of a leaf change its first line: a conflict shows there.
    records.enter(line, id, slot: slot) { if conflict(id, $0) { mustSettle = true } }
    var rest = UInt64(lines)
    var first = line
    while rest != 0 {
      let skipped = rest.trailingZeroBitCount
      rest &>>= UInt64(truncatingIfNeeded: skipped)
      let count = (~rest).trailingZeroBitCount
      rest &>>= UInt64(truncatingIfNeeded: count)
      first &+= UInt64(truncatingIfNeeded: skipped)
      records.note(area, id, first: first, count: UInt64(truncatingIfNeeded: count), pending: true)
      first &+= UInt64(truncatingIfNeeded: count)
    }
    if records.outstanding(area) > GroupContent.mostChanges {
      // Further entries would push out what somebody else may have to write back.
      records.advance(area, completed: completedFences(slot))
      if records.outstanding(area) > GroupContent.mostChanges { mustSettle = true }
    }
    if mustSettle {
      try settleGroups([groups.content(id)])
    } else if nvm_load_relaxed(area.end) &- nvm_load_relaxed(area.pending) &+ 1 >= GroupArea.mostPending {
      flushPending(area, slot)
    }
    return UInt64(slot) &<< 50 | area.tick
  }

  /// Names all that this thread has changed under groups so far.
  package var groupStamp: UInt64 {
    let slot = Int(nvm_thread_slot())
    guard slot != 0, let area = groups.records.area(slot) else { return 0 }
    return UInt64(slot) &<< 50 | area.tick
  }

  /// Whether what a stamp names is durable; 0 names nothing.
  package func isSettled(stamp: UInt64) -> Bool {
    let slot = Int(truncatingIfNeeded: stamp &>> 50)
    guard slot != 0, let area = groups.records.area(slot) else { return true }
    return isSettled(area, slot, stamp & GroupArea.tickMask)
  }

  /// Makes durable what a stamp names, and whatever else its thread has changed under groups. One fence, if any.
  package func settle(stamp: UInt64) throws(NVMError) {
    if !isSettled(stamp: stamp) { try settleThread(Int(truncatingIfNeeded: stamp &>> 50)) }
  }
}
