import CNVM
import NVMRegion

// The header of a tree: the first bytes of a heap block tagged `treeRoot` and owned by the tree. Written once,
// before the block is linked anywhere.
//
// OFFSET SIZE  DESCRIPTION
//      0    8  magic "nvmTREE0"
//      8    4  tree number (the owner token of all its blocks)
//     12    1  key form (DurableKeyForm)
//     13    1  value form (DurableValueForm)
//     14    2  zero
//     16    4  number of the first leaf, which never changes
//     20    4  zero
//     24    8  hash of the key type's name
//     32    8  hash of the value type's name
//     40    4  CRC-32C of bytes 0 ..< 40 and the region's UUID
//     44    4  zero

struct TreeHeader: Equatable {
  static let size = 48
  static let magic: UInt64 = 0x3045_4552_546D_766E  // "nvmTREE0", little-endian

  var tree: UInt32
  var keyForm: UInt8
  var valueForm: UInt8
  var firstLeaf: UInt32
  var keyType: UInt64
  var valueType: UInt64

  func encoded(_ uuid: RegionUUID) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: Self.size)
    bytes.withUnsafeMutableBytes { b in
      b.storeBytes(of: Self.magic, as: UInt64.self)
      b.storeBytes(of: tree, toByteOffset: 8, as: UInt32.self)
      b[12] = keyForm
      b[13] = valueForm
      b.storeBytes(of: firstLeaf, toByteOffset: 16, as: UInt32.self)
      b.storeBytes(of: keyType, toByteOffset: 24, as: UInt64.self)
      b.storeBytes(of: valueType, toByteOffset: 32, as: UInt64.self)
      b.storeBytes(of: Self.checksum(b.baseAddress!, uuid), toByteOffset: 40, as: UInt32.self)
    }
    return bytes
  }

  static func decode(_ p: UnsafeRawPointer, _ uuid: RegionUUID) -> TreeHeader? {
    guard p.loadUnaligned(as: UInt64.self) == magic,
      p.loadUnaligned(fromByteOffset: 40, as: UInt32.self) == checksum(p, uuid)
    else { return nil }
    return TreeHeader(
      tree: p.loadUnaligned(fromByteOffset: 8, as: UInt32.self),
      keyForm: p.load(fromByteOffset: 12, as: UInt8.self),
      valueForm: p.load(fromByteOffset: 13, as: UInt8.self),
      firstLeaf: p.loadUnaligned(fromByteOffset: 16, as: UInt32.self),
      keyType: p.loadUnaligned(fromByteOffset: 24, as: UInt64.self),
      valueType: p.loadUnaligned(fromByteOffset: 32, as: UInt64.self))
  }

  private static func checksum(_ p: UnsafeRawPointer, _ uuid: RegionUUID) -> UInt32 {
    nvm_crc32c(UInt32(truncatingIfNeeded: nvm_mix2(0x7EE, uuid.high, uuid.low)), p, 40)
  }
}
