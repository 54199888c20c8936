// The extent table, format 0: one 64-byte entry for each unit of the region. The entry of unit u means
// something when u heads an extent; the heads tile all units in use, free ones included, so a zeroed or
// rotten head shows as a hole.
//
// WORD  DESCRIPTION
//   0   commit word: kind (bits 0–3) | length in units (4–31) | check (32–63)
//         the check covers kind, length, the unit's offset, the region's UUID and, unless free, words 1 and 2
//   1   object: tag (0–15) | owner (16–35) | epoch (36–51) | 0
//       slab: lines of a block (0–15) | 0 | generation (32–63)
//   2   object: bytes asked for; slab: 0
//   3   slab: high-water mark (0–31) | check over mark, generation, offset, UUID (32–63)
//   4   object: the rest that was split off behind it: length in units (0–27) | 0 | check over it, the object's
//         length, the offset, the UUID (32–63); 0 once that rest is anything else
//  5–7  zero
//
// A valid head inside a free extent is a free one that ends within it (left by coalescing, which happens in
// DRAM only, or by a split that a crash cut short); inside a used extent there is none that lasts.
//
// Word 4 lets an object and the head of the rest behind it reach the medium in either order: where word 0 of the next
// head is zero, a free extent of that length stands there.

import CNVM
import NVMRegion

enum ExtentKind: UInt64 {
  case free = 1
  case slab = 2
  case object = 3
  /// An extent table.
  case table = 4
  /// Overflow of a lane.
  case log = 5
  /// What lies before the first table: superblocks, heap header, roots, lanes.
  case system = 6
}

enum ExtentEntry {
  static let size = 64
  static let maximumLength = (1 << 28) - 1

  static func length(_ word0: UInt64) -> Int { Int((word0 >> 4) & 0xFFF_FFFF) }
  static func kind(_ word0: UInt64) -> ExtentKind? { ExtentKind(rawValue: word0 & 15) }
}

/// Computes the checks of headers. Salted by the region's UUID: what was copied from another file never
/// verifies.
struct HeaderCheck: Sendable {
  let seed: UInt64

  init(_ uuid: RegionUUID) { seed = nvm_mix2(0x6E76_6D61_6C6C_6F63, uuid.high, uuid.low) }

  // MARK: Extents

  func extent(
    _ kind: ExtentKind, length: Int, at offset: UInt64, _ word1: UInt64 = 0, _ word2: UInt64 = 0
  ) -> UInt64 {
    extent(low: UInt64(length) << 4 | kind.rawValue, at: offset, word1, word2)
  }
  private func extent(low: UInt64, at offset: UInt64, _ word1: UInt64, _ word2: UInt64) -> UInt64 {
    let covered = low & 15 != ExtentKind.free.rawValue
    let a = nvm_mix2(seed ^ offset, low | 1 << 60, covered ? word1 : 0)
    return UInt64(nvm_fold32(nvm_mix2(a, covered ? word2 : 0, offset))) << 32 | low
  }
  /// Whether word 0 of the head of the extent at `offset` goes with words 1 and 2.
  func isValidExtent(_ word0: UInt64, at offset: UInt64, _ word1: UInt64, _ word2: UInt64) -> Bool {
    ExtentEntry.kind(word0) != nil && ExtentEntry.length(word0) > 0
      && extent(low: word0 & 0xFFFF_FFFF, at: offset, word1, word2) == word0
  }

  /// Word 4 of an object of `length` units at `offset`, in front of a free rest of `rest` units.
  func rest(_ rest: Int, behind length: Int, at offset: UInt64) -> UInt64 {
    let low = UInt64(rest)
    let a = nvm_mix2(seed ^ offset, low | 1 << 59, UInt64(length))
    return UInt64(nvm_fold32(nvm_mix2(a, low, offset))) << 32 | low
  }

  func mark(_ mark: UInt32, generation: UInt32, at offset: UInt64) -> UInt64 {
    let x = nvm_mix2(seed ^ offset, UInt64(mark) | 1 << 61, UInt64(generation))
    return UInt64(nvm_fold32(x)) << 32 | UInt64(mark)
  }

  // MARK: Blocks

  /// Word 0 of a block at `offset` from its low half.
  @inline(__always)
  func block(_ low: UInt32, at offset: UInt64, generation: UInt32, word1: UInt64) -> UInt64 {
    let a = nvm_mix2(seed ^ offset, UInt64(low) | UInt64(generation) << 32, word1)
    return UInt64(nvm_fold32(a)) << 32 | UInt64(low)
  }
  /// Word 0 of a free block.
  @inline(__always)
  func freeBlock(lines: Int, at offset: UInt64, generation: UInt32) -> UInt64 {
    block(BlockHeader.freeLow(lines: lines), at: offset, generation: generation, word1: 0)
  }
}
