import CNVM
public import NVMRegion

extension PersistentHeap {
  /// Allocates a block. The bytes are what was there before: initialise them.
  ///
  /// - Parameters:
  ///   - byteCount: 0 and up. Blocks up to eight units of the heap (128 KiB by default) come from slabs,
  ///     larger ones are extents of their own, up to what the region can hold.
  ///   - alignment: of the offset, a power of two; at least 16 is given. Beyond 64 it costs up to
  ///     `alignment` bytes, from the unit (16 KiB) on nothing but rounding.
  ///   - tag: what it holds. - owner: by whom a crash survivor is found again
  ///     (``forEachBlock(tag:owner:includingSmall:_:)``); 20 bits.
  ///   - durability: `.immediate`: on return the block survives any crash, by one fence. `.deferred`: from
  ///     the calling thread's next fence on.
  /// - Returns: where the bytes start.
  /// - Throws: `.invalidArgument`, `.outOfSpace`, `.diskFull`, `.ioFailure`, and as
  ///   ``PersistentRegion/checkWritable()``.
  /// - Complexity: O(1) from a slab, plus a batch of 64 headers when a slab's next part is first used. Of
  ///   large ones O(units).
  public func allocate(
    byteCount: Int, alignment: Int = 16, tag: BlockTag = .none, owner: OwnerToken = .none,
    durability: Durability = .immediate
  ) throws(NVMError) -> Offset {
    try checkWritable()
    let prefix = try prefix(byteCount, alignment, owner)
    guard let index = classIndex(byteCount, prefix: prefix) else {
      return try allocateObject(byteCount, alignment, tag, owner, durability)
    }
    guard let (slab, i) = try takeBlock(index, byteCount, prefix: prefix) else {
      return try allocateObject(byteCount, alignment, tag, owner, durability)
    }
    let blockBytes = slab.pointee.blockBytes
    let block = slab.offset(i)
    let slack = blockBytes &- prefix &- byteCount
    let word1 = BlockHeader.word1(tag: tag, owner: owner, epoch: epoch, slack: slack)
    let low = BlockHeader.allocatedLow(
      lines: blockBytes &>> 6, shift: prefix.trailingZeroBitCount, slack: slack)
    let at = Offset(rawValue: block)
    // Word 1 first, word 0 commits; one line, so a crash leaves both, or a free block.
    var tally = StoreTally()
    region.store(word1, at: at + 8, counting: &tally)
    region.store(
      check.block(low, at: block, generation: slab.pointee.generation, word1: word1), at: at,
      counting: &tally)
    // Ahead of the flush: a locked instruction behind it would wait for the medium, and with it the next
    // operation's misses.
    slab.setAllocated(i)
    region.flush(line: at, words: 0b11, counting: &tally)
    region.count(tally)
    if durability == .immediate { try region.fence() }
    return at + prefix
  }

  /// Checks arguments; the distance from block to payload.
  @inline(__always)
  func prefix(_ byteCount: Int, _ alignment: Int, _ owner: OwnerToken) throws(NVMError) -> Int {
    if byteCount < 0 || alignment <= 0 || alignment & (alignment &- 1) != 0 || owner.rawValue > 0xF_FFFF {
      throw invalid(byteCount, alignment, owner)
    }
    return max(alignment, BlockHeader.size)
  }

  @inline(never)
  private func invalid(_ byteCount: Int, _ alignment: Int, _ owner: OwnerToken) -> NVMError {
    let what =
      byteCount < 0
      ? "A block of \(byteCount) bytes cannot be"
      : owner.rawValue > 0xF_FFFF
        ? "The owner token \(owner.rawValue) has more than 20 bits"
        : "The alignment \(alignment) is not a power of two"
    return NVMError(code: .invalidArgument, message: "\(what).", path: region.path)
  }

  /// Units and alignment in units of an object.
  func objectShape(_ byteCount: Int, _ alignment: Int) throws(NVMError) -> (count: Int, alignment: Int) {
    guard byteCount <= region.maximumSize, alignment <= region.maximumSize else {
      throw NVMError(
        code: .outOfSpace,
        message:
          "The region may grow to \(region.maximumSize) bytes, too few for a block of \(byteCount). Open it "
          + "with a larger maximum size.", path: region.path)
    }
    return (units(forBytes: byteCount), max(1, alignment >> unitShift))
  }

  @inline(never)
  private func allocateObject(
    _ byteCount: Int, _ alignment: Int, _ tag: BlockTag, _ owner: OwnerToken, _ durability: Durability
  ) throws(NVMError) -> Offset {
    let shape = try objectShape(byteCount, alignment)
    let word1 = BlockHeader.word1(tag: tag, owner: owner, epoch: epoch, slack: 0)
    let use = ObjectUse(word1: word1, byteCount: byteCount)
    let slack = shape.count / Self.slackShare
    if shape.alignment == 1, let spare = takeSpare(shape.count, slack: slack, use: use) {
      if durability == .immediate { try region.fence() }
      return Offset(rawValue: start(ofUnit: spare.unit))
    }
    let (unit, isSettled) = try acquireExtent(
      shape.count, slack: slack, alignment: shape.alignment, use: use)
    if durability == .immediate {
      if isSettled { try region.acknowledge() } else { try region.fence() }
    }
    return Offset(rawValue: start(ofUnit: unit))
  }

  /// A large object may be larger than was asked for by this part of it.
  static let slackShare = 8
}
