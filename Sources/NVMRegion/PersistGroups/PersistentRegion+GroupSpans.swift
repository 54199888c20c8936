import CNVM

// Changes of trees under a group. A tree names a change by the *stamp* that it gets: the thread's slot and the tick of
// its last change. Readers and later writers of a leaf find the stamp beside it, and settle it first.
//
// Their write-back is put off until there are some tens of lines: the next lock is an atomic instruction, and would wait
// for each of them.

extension PersistentRegion {
  /// From now on ``commitUnderGroup(leaf:lines:)`` puts the fences of this thread off until the group is waited for.
  /// False, and nothing is put off: on a journal, within another span, and for a thread that shares its slot.
  package func beginGroupSpan(_ group: PersistGroup) -> Bool {
    let slot = Int(nvm_thread_slot())
    guard journal == nil, let area = groups.records.area(slot) ?? makeArea(slot),
      nvm_load_relaxed(area.current) == 0
    else { return false }
    nvm_store_relaxed(area.current, group.id &+ 1)
    return true
  }
  package func endGroupSpan() { _ = setGroupSpan(0) }

  /// Leaves the span of this thread for a while: the argument is 0 to leave it, then what this has returned.
  package func setGroupSpan(_ span: UInt64) -> UInt64 {
    guard let area = groups.records.area(Int(nvm_thread_slot())) else { return 0 }
    let old = nvm_load_relaxed(area.current)
    nvm_store_relaxed(area.current, span)
    return old
  }

  package var isInGroupSpan: Bool {
    let slot = Int(nvm_thread_slot())
    guard slot != 0, let area = groups.records.area(slot) else { return false }
    return nvm_load_relaxed(area.current) != 0
  }

  /// Notes a change of a leaf in the span of this thread: which of its eight lines. Their write-back comes later.
  /// False outside of a span.
  package func commitUnderGroup(leaf: Offset, lines: UInt8) throws(NVMError) -> Bool {
    let slot = Int(nvm_thread_slot())
    guard slot != 0, let area = groups.records.area(slot) else { return false }
    let current = nvm_load_relaxed(area.current)
    guard current != 0 else { return false }
    var mustSettle = false
    var rest = lines
    while rest != 0 {
      let line = rest.trailingZeroBitCount
      rest &= rest &- 1
      if enter(leaf + line &* 64, count: 64, current &- 1, pending: true) { mustSettle = true }
    }
    if mustSettle {
      try settleGroups([groups.content(current &- 1)])
    } else if nvm_load_relaxed(area.end) &- nvm_load_relaxed(area.flushedEnd) >= GroupArea.mostPending {
      flushPending(area, slot)
    }
    return true
  }

  /// Names all that this thread has changed under groups so far.
  package var groupStamp: UInt64 {
    let slot = Int(nvm_thread_slot())
    guard slot != 0, let area = groups.records.area(slot) else { return 0 }
    return UInt64(slot) &<< 50 | nvm_load_relaxed(area.tick)
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
