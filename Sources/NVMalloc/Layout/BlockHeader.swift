// The header of a block in a slab, format 0: the first 16 bytes of its first line.
//
// WORD  DESCRIPTION
//   0   commit word:
//         bits 0–1   state: 1 free, 2 allocated
//         bits 2–6   log2 of the distance from the block to the payload (4 and up); 0 when free
//         bits 7–18  size of the block in 64-byte lines, header included
//         bits 19–25 slack, high part; 0 when free
//         bits 26–31 zero
//         bits 32–63 check over the low half, the block's offset, the region's UUID, the slab's generation
//                    and, when allocated, word 1
//   1   when allocated: tag (0–15) | owner (16–35) | epoch (36–51) | slack, low part (52–63)
//         slack = room for the payload minus bytes asked for
//
// Both words stand in one line, and word 1 is stored first: a crash leaves a prefix of these stores, so
// word 0 never comes without its word 1.

enum BlockState {
  static let free: UInt32 = 1
  static let allocated: UInt32 = 2
}

enum BlockHeader {
  static let size = 16

  @inline(__always)
  static func freeLow(lines: Int) -> UInt32 { BlockState.free | UInt32(truncatingIfNeeded: lines) << 7 }

  @inline(__always)
  static func allocatedLow(lines: Int, shift: Int, slack: Int) -> UInt32 {
    BlockState.allocated | UInt32(truncatingIfNeeded: shift) << 2 | UInt32(truncatingIfNeeded: lines) << 7
      | UInt32(truncatingIfNeeded: slack >> 12) << 19
  }

  @inline(__always)
  static func word1(tag: BlockTag, owner: OwnerToken, epoch: UInt16, slack: Int) -> UInt64 {
    UInt64(tag.rawValue) | UInt64(owner.rawValue) << 16 | UInt64(epoch) << 36
      | UInt64(truncatingIfNeeded: slack & 0xFFF) << 52
  }

  @inline(__always) static func state(_ word0: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: word0) & 3 }
  @inline(__always) static func shift(_ word0: UInt64) -> Int { Int(word0 >> 2) & 31 }
  @inline(__always) static func lines(_ word0: UInt64) -> Int { Int(word0 >> 7) & 0xFFF }
  static func slack(_ word0: UInt64, _ word1: UInt64) -> Int {
    (Int(word0 >> 19) & 0x7F) << 12 | Int(word1 >> 52)
  }

  static func tag(_ word1: UInt64) -> BlockTag { BlockTag(rawValue: UInt16(truncatingIfNeeded: word1)) }
  static func owner(_ word1: UInt64) -> OwnerToken {
    OwnerToken(rawValue: UInt32(truncatingIfNeeded: word1 >> 16) & 0xF_FFFF)
  }
  static func epoch(_ word1: UInt64) -> UInt16 { UInt16(truncatingIfNeeded: word1 >> 36) }
}
