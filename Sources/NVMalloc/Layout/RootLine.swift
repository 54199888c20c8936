// The root table, format 0: one 64-byte line per root.
//
// WORD  DESCRIPTION
//   0   the root: an offset, or whatever the caller keeps there
//   1   commit word of the name: bytes of the name, 1 ... 48 (0–7) | zero (8–31) | check over the name, its
//       length, the line's offset and the UUID (32–63); 0: the line is vacant
//  2–7  the name, UTF-8, padded with zeroes
//
// A root is made by storing name, word 0 and then word 1, all in one line; it ends with word 1 := 0.

import CNVM
import NVMRegion

enum RootLine {
  static let size = 64
  static let longestName = 48
}

extension HeaderCheck {
  func rootName(_ name: UnsafeRawBufferPointer, at offset: UInt64) -> UInt64 {
    let hash = nvm_hash_bytes(seed ^ offset, name.baseAddress, name.count)
    return UInt64(nvm_fold32(hash ^ 1 << 62)) << 32 | UInt64(name.count)
  }
}
