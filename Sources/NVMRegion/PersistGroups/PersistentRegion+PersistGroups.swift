extension PersistentRegion {
  /// Opens a group: changes made under it can be asked for later. O(1).
  public func makePersistGroup() -> PersistGroup { PersistGroup(self, groups.take()) }

  /// Stores one aligned word atomically and starts its write-back. Durable when the group is. O(1).
  /// - Throws: `.invalidArgument` for a group of another region; as ``PersistGroup/wait()`` where the group has become so
  ///   large that it is settled.
  public func store(_ word: UInt64, at offset: Offset, in group: PersistGroup) throws(NVMError) {
    try check(group)
    store(word, at: offset)
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
    flush(offset, count: count)
    try note(offset, count: count, in: group)
  }

  /// Adds lines to a group that the calling thread has just flushed.
  package func note(_ offset: Offset, count: Int, in group: PersistGroup) throws(NVMError) {
    if journal != nil { return notePosition(in: group) }
    let lines = GroupContent.Lines(
      first: offset.rawValue >> 6, end: (offset.rawValue + UInt64(count) + 63) >> 6)
    let earlier = groups.enter(group.content, lines)
    if group.content.note(lines, after: earlier, self) { try settleGroups([group.content]) }
  }

  /// On a journal: adds what the calling thread has appended so far.
  package func notePosition(in group: PersistGroup) {
    if let journal { group.content.note(position: journal.position) }
  }

  package func check(_ group: PersistGroup) throws(NVMError) {
    guard group.region !== self else { return }
    throw NVMError(
      code: .invalidArgument, message: "The group belongs to another region. Make one of this region.",
      path: path)
  }
}
