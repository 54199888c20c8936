public import CNVM

extension PersistentRegion {
  /// Opens a group: changes made under it can be asked for later. O(1).
  public func makePersistGroup() -> PersistGroup { PersistGroup(self, groups.take(self)) }

  /// Stores one aligned word atomically and starts its write-back. Durable when the group is. O(1).
  /// - Throws: `.invalidArgument` for a group of another region; as ``PersistGroup/wait()`` where the group has become so
  ///   large that it is settled.
  @inlinable @inline(__always)
  public func store(_ word: UInt64, at offset: Offset, in group: PersistGroup) throws(NVMError) {
    try check(group)
    store(word, at: offset)
    // Nearly always, but on a journal. Written back last: any fence of this thread comes after both.
    let slot = nvm_thread_slot()
    if mode != .journaled,
      nvm_group_note(groupRecords, slot, offset.rawValue &>> 6, group.id, counterTable.completed(slot: slot))
    {
      flush(offset, count: 8)
    } else {
      try stored(offset, in: group)
    }
  }

  @usableFromInline @inline(never)
  func stored(_ offset: Offset, in group: PersistGroup) throws(NVMError) {
    try flushed(offset, count: 8, in: group)
  }

  /// Stores bytes, in no particular order, and starts their write-back. Durable when the group is. O(count).
  /// - Throws: as ``store(_:at:in:)``.
  public func write(_ bytes: UnsafeRawBufferPointer, at offset: Offset, in group: PersistGroup)
    throws(NVMError)
  {
    try check(group)
    // Through the cache, whatever the size: what is on its way past it only the thread itself can fence.
    write(bytes, at: offset)
    try flushed(offset, count: bytes.count, in: group)
  }

  /// Stores the bytes of a trivial value. As ``write(_:at:in:)``.
  public func write<T: BitwiseCopyable>(
    _ value: T, at pointer: PersistentPointer<T>, in group: PersistGroup
  ) throws(NVMError) {
    try check(group)
    write(value, at: pointer)
    try flushed(pointer.offset, count: MemoryLayout<T>.size, in: group)
  }

  /// Sets `count` bytes to `byte`. As ``write(_:at:in:)``.
  public func fill(_ offset: Offset, count: Int, with byte: UInt8 = 0, in group: PersistGroup)
    throws(NVMError)
  {
    try check(group)
    fill(offset, count: count, with: byte)
    try flushed(offset, count: count, in: group)
  }

  /// Starts the write-back of a range that the calling thread has changed (through raw pointers, for one), and adds it to
  /// the group. O(lines).
  /// - Throws: as ``store(_:at:in:)``.
  public func flush(_ offset: Offset, count: Int, in group: PersistGroup) throws(NVMError) {
    try check(group)
    try flushed(offset, count: count, in: group)
  }

  private func flushed(_ offset: Offset, count: Int, in group: PersistGroup) throws(NVMError) {
    guard count > 0 else { return }
    if journal != nil {
      flush(offset, count: count)
      return notePosition(in: group)
    }
    // Written back last. Any fence of this thread comes after both.
    let mustSettle = enter(offset, count: count, group.id)
    flush(offset, count: count)
    if mustSettle { try settleGroups([group.content]) }
  }

  /// Adds lines to a group that the calling thread has just flushed.
  package func note(_ offset: Offset, count: Int, in group: PersistGroup) throws(NVMError) {
    if journal != nil { return notePosition(in: group) }
    if enter(offset, count: count, group.id) { try settleGroups([group.content]) }
  }

  /// Adds lines to a counter. Returns whether it is to be settled now, when their write-back has begun.
  @inline(__always)
  private func enter(_ offset: Offset, count: Int, _ id: UInt64) -> Bool {
    let records = groups.records
    let slot = Int(nvm_thread_slot())
    guard let area = records.area(slot) ?? makeArea(slot) else {
      return enterShared(offset, count: count, id)
    }
    var first = offset.rawValue &>> 6
    let end = (offset.rawValue &+ UInt64(truncatingIfNeeded: count) &+ 63) &>> 6
    var mustSettle = false
    var line = first
    while line < end {
      records.enter(line, id, slot: slot) { if conflict(id, $0) { mustSettle = true } }
      line &+= 1
    }
    // Changes are written back in their order.
    if nvm_load_relaxed(area.pending) != 0 { flushPending(area, slot) }
    records.advance(area, completed: completedFences(slot))
    while end &- first > GroupArea.mostLines {
      records.note(area, id, first: first, count: GroupArea.mostLines, pending: false)
      first &+= GroupArea.mostLines
    }
    records.note(area, id, first: first, count: end &- first, pending: false)
    return mustSettle || records.outstanding(area) > GroupContent.mostChanges
  }

  @inline(never) func makeArea(_ slot: Int) -> GroupArea? {
    maximumSize <= GroupArea.mostBytes && groups.makeArea(slot, self) ? groups.records.area(slot) : nil
  }

  /// For a thread that has no area of its own: nothing stays outstanding.
  @inline(never) private func enterShared(_ offset: Offset, count: Int, _ id: UInt64) -> Bool {
    let end = (offset.rawValue + UInt64(count) + 63) >> 6
    // In nobody's place: looks only.
    for line in (offset.rawValue >> 6)..<end {
      groups.records.enter(line, id, slot: -8) { _ = conflict(id, $0) }
    }
    return true
  }

  /// Another counter changed a line before, or one of the same hash. Returns whether the chain is to be settled.
  @inline(never) func conflict(_ id: UInt64, _ earlier: UInt64) -> Bool {
    if isSettledAlone(earlier), nvm_load_acquire(groups.records.hasEarlier(earlier)) == 0 { return false }
    return groups.content(id).add(groups.content(earlier), groups.records)
  }

  /// On a journal: adds what the calling thread has appended so far.
  package func notePosition(in group: PersistGroup) {
    if let journal { Self.raise(groups.records.position(group.id), to: journal.position) }
  }

  @inlinable @inline(__always)
  package func check(_ group: PersistGroup) throws(NVMError) {
    if group.region !== self { throw foreignGroup() }
  }
  @usableFromInline @inline(never) func foreignGroup() -> NVMError {
    NVMError(
      code: .invalidArgument, message: "The group belongs to another region. Make one of this region.",
      path: path)
  }
}
