/// The sizes of slab blocks, header included: multiples of 64 bytes up to 512, then eight to a doubling, so
/// that at most an eighth is wasted.
enum SizeClasses {
  /// The index of the smallest class of at least `lines` 64-byte lines (> 0).
  @inline(__always)
  static func index(lines: Int) -> Int {
    if lines <= 8 { return lines &- 1 }
    let below = lines &- 1
    let b = Int.bitWidth &- 1 &- below.leadingZeroBitCount
    return (b &- 2) &* 8 &+ ((below &- (1 &<< b)) &>> (b &- 3))
  }

  /// The size of a class in lines.
  @inline(__always)
  static func lines(_ index: Int) -> Int {
    if index < 8 { return index &+ 1 }
    return (9 &+ (index & 7)) &<< ((index &>> 3) &- 1)
  }

  /// How many classes there are with blocks of up to `bytes` (a power of two ≥ 512).
  static func count(upTo bytes: Int) -> Int { index(lines: bytes / 64) + 1 }

  /// Units of a slab: the fewest from the wish on whose tail wastes no more than an eighth.
  ///
  /// The first slab of a class is as small as can be; later ones have at least four units and eight blocks.
  static func slabUnits(blockBytes: Int, unitShift: Int, isFirst: Bool) -> Int {
    let unit = 1 << unitShift
    let wish = isFirst ? 1 : max(4 * unit, 8 * blockBytes)
    var n = (max(wish, blockBytes) + unit - 1) >> unitShift
    while (n << unitShift) % blockBytes > (n << unitShift) / 8 { n += 1 }
    return n
  }
}
