import CNVM
import NVMRegion

// The redo log of a transaction: the payload of a heap block tagged `storeLog`, placed under the heap's root
// "nvm.log" when the transaction is committed and removed when all its changes are in. Written once.
//
// OFFSET SIZE  DESCRIPTION
//      0    8  magic "nvmTXLG0"
//      8    8  length in bytes, this header included
//     16    4  number of changes
//     20    4  CRC-32C of all but this field, seeded with the region's UUID
//     24       the changes, one after the other, ascending by tree and key:
//
//      0    4  number of the tree
//      4    4  length of the key; bit 31 set: the key is removed
//      8    8  length of the value, 0 for a removal
//     16    k  encoded key
//   16+k    v  encoded value
//
// Applying is idempotent: each change sets a key to a value or removes it, and no two name the same key.

struct StoreLog {
  static let rootName = "nvm.log"
  static let headerSize = 24
  static let changeHeaderSize = 16
  static let magic: UInt64 = 0x3047_4C58_546D_766E  // "nvmTXLG0", little-endian
  private static let removalBit: UInt32 = 1 << 31

  /// One change of one tree, by encodings. `value` nil: the key is removed.
  struct Change: Equatable {
    var tree: UInt32
    var key: [UInt8]
    var value: [UInt8]?
  }

  static func encode(_ trees: [TreeChanges], _ uuid: RegionUUID) throws(NVMError) -> [UInt8] {
    var length = headerSize
    var count = 0
    for tree in trees {
      count += tree.changes.count
      for change in tree.changes {
        guard change.key.count < Int(removalBit) else {
          throw NVMError(code: .tooLarge, message: "A key of \(change.key.count) bytes is too long.")
        }
        length += changeHeaderSize + change.key.count + (change.value?.count ?? 0)
      }
    }
    var bytes: [UInt8] = []
    bytes.reserveCapacity(length)
    func append<T: FixedWidthInteger>(_ value: T) { withUnsafeBytes(of: value.littleEndian) { bytes += $0 } }
    append(magic)
    append(UInt64(length))
    append(UInt32(count))
    append(UInt32(0))
    for tree in trees {
      for change in tree.changes {
        append(tree.number)
        append(UInt32(change.key.count) | (change.value == nil ? removalBit : 0))
        append(UInt64(change.value?.count ?? 0))
        bytes += change.key
        if let value = change.value { bytes += value }
      }
    }
    seal(&bytes, uuid)
    return bytes
  }

  /// Writes the checksum.
  static func seal(_ bytes: inout [UInt8], _ uuid: RegionUUID) {
    let sum = bytes.withUnsafeBytes { checksum($0, uuid) }
    withUnsafeBytes(of: sum.littleEndian) { bytes.replaceSubrange(20..<24, with: $0) }
  }

  /// The changes in a log, or nil when it is not intact. Any bytes may be given.
  static func decode(_ bytes: UnsafeRawBufferPointer, _ uuid: RegionUUID) -> [Change]? {
    func word(_ at: Int) -> UInt64 {
      UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self))
    }
    func half(_ at: Int) -> UInt32 {
      UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: at, as: UInt32.self))
    }
    guard bytes.count >= headerSize, word(0) == magic, word(8) == UInt64(bytes.count),
      half(20) == checksum(bytes, uuid)
    else { return nil }
    var changes: [Change] = []
    var at = headerSize
    for _ in 0..<half(16) {
      guard bytes.count - at >= changeHeaderSize else { return nil }
      let isRemoval = half(at + 4) & removalBit != 0
      let keyLength = Int(half(at + 4) & ~removalBit)
      guard let valueLength = Int(exactly: word(at + 8)) else { return nil }
      let rest = bytes.count - at - changeHeaderSize
      guard keyLength <= rest, valueLength <= rest - keyLength, !isRemoval || valueLength == 0 else {
        return nil
      }
      let key = at + changeHeaderSize
      let value = key + keyLength
      changes.append(
        Change(
          tree: half(at), key: Array(bytes[key..<value]),
          value: isRemoval ? nil : Array(bytes[value..<value + valueLength])))
      at = value + valueLength
    }
    return at == bytes.count ? changes : nil
  }

  private static func checksum(_ bytes: UnsafeRawBufferPointer, _ uuid: RegionUUID) -> UInt32 {
    guard let base = bytes.baseAddress else { return 0 }
    var crc = UInt32(truncatingIfNeeded: nvm_mix2(0x7A10, uuid.high, uuid.low))
    crc = nvm_crc32c(crc, base, 20)
    return nvm_crc32c(crc, base + headerSize, bytes.count - headerSize)
  }
}
