// The heap's own area, format 0. All numbers little-endian; P is the region's payload offset.
//
// OFFSET      SIZE           DESCRIPTION
// P              256         heap header, copy A
// P + 4096       256         heap header, copy B
// P + 8192        64 each    root table
// behind it  laneSize each   lanes of the log
// behind it, on a unit boundary, the first extent table; it moves when the heap outgrows it
//
// The heap header:
//      0    8  magic "nvmalloc"
//      8    4  format version 0
//     12    4  log2 of the unit of extents
//     16   16  UUID of the region
//     32    8  sequence: the valid copy with the higher one holds
//     40    8  units in use: the extent heads tile units 0 ..< this; unit u starts at offset u << shift
//     48    8  offset of the extent table
//     56    8  its capacity in entries
//     64    8  offset of the root table
//     72    8  number of roots
//     80    8  offset of the lanes
//     88    8  number of lanes
//     96    8  bytes of a lane
//    104  144  zero
//    248    4  CRC-32C of bytes 0 ..< 248
//    252    4  zero
//
// Both copies are rewritten one after the other, each durable before the next is touched; the update takes
// effect with the first.

import CNVM
import NVMRegion

enum HeapHeaderLayout {
  static let size = 256
  static let copyStride = 4096
  static let areaSize = 2 * copyStride
  static let magic: UInt64 = 0x636F_6C6C_616D_766E  // "nvmalloc"
  static let version: UInt32 = 0
  static let checksummed = 248
}

struct HeapHeader: Equatable {
  var unitShift: Int
  var uuid: RegionUUID
  var sequence: UInt64 = 1
  var unitCount: Int
  var tableOffset: Offset
  var tableCapacity: Int
  var rootsOffset: Offset
  var rootCount: Int
  var lanesOffset: Offset
  var laneCount: Int
  var laneSize: Int

  /// Equal but for the sequence.
  func isSame(as other: HeapHeader) -> Bool {
    var other = other
    other.sequence = sequence
    return self == other
  }

  func encoded() -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: HeapHeaderLayout.size)
    bytes.withUnsafeMutableBytes { b in
      b.storeBytes(of: HeapHeaderLayout.magic, toByteOffset: 0, as: UInt64.self)
      b.storeBytes(of: HeapHeaderLayout.version, toByteOffset: 8, as: UInt32.self)
      b.storeBytes(of: UInt32(unitShift), toByteOffset: 12, as: UInt32.self)
      let words: [UInt64] = [
        uuid.high, uuid.low, sequence, UInt64(unitCount), tableOffset.rawValue, UInt64(tableCapacity),
        rootsOffset.rawValue, UInt64(rootCount), lanesOffset.rawValue, UInt64(laneCount), UInt64(laneSize),
      ]
      for (i, word) in words.enumerated() {
        b.storeBytes(of: word, toByteOffset: 16 + 8 * i, as: UInt64.self)
      }
      let crc = nvm_crc32c(0, b.baseAddress!, HeapHeaderLayout.checksummed)
      b.storeBytes(of: crc, toByteOffset: HeapHeaderLayout.checksummed, as: UInt32.self)
    }
    return bytes
  }

  enum Copy {
    case valid(HeapHeader)
    case newer(UInt32)
    /// All zero.
    case absent
    case damaged
  }

  /// Decodes a copy and checks that everything it names lies within the region.
  static func decode(_ b: UnsafeRawBufferPointer, region: PersistentRegion) -> Copy {
    func word(_ i: Int) -> UInt64 { b.loadUnaligned(fromByteOffset: 16 + 8 * i, as: UInt64.self) }
    let magic = b.loadUnaligned(as: UInt64.self)
    if magic == 0, b.allSatisfy({ $0 == 0 }) { return .absent }
    let crc = b.loadUnaligned(fromByteOffset: HeapHeaderLayout.checksummed, as: UInt32.self)
    guard magic == HeapHeaderLayout.magic,
      TrustedChecksum.heapHeader.accepts(crc == nvm_crc32c(0, b.baseAddress!, HeapHeaderLayout.checksummed))
    else { return .damaged }
    let version = b.loadUnaligned(fromByteOffset: 8, as: UInt32.self)
    guard version <= HeapHeaderLayout.version else { return .newer(version) }
    for i in 2...10 where word(i) > UInt64(Int.max) { return .damaged }
    let header = HeapHeader(
      unitShift: Int(b.loadUnaligned(fromByteOffset: 12, as: UInt32.self)),
      uuid: RegionUUID(high: word(0), low: word(1)), sequence: word(2), unitCount: Int(word(3)),
      tableOffset: Offset(rawValue: word(4)), tableCapacity: Int(word(5)),
      rootsOffset: Offset(rawValue: word(6)),
      rootCount: Int(word(7)), lanesOffset: Offset(rawValue: word(8)), laneCount: Int(word(9)),
      laneSize: Int(word(10)))
    return header.isPlausible(in: region) ? .valid(header) : .damaged
  }

  private func isPlausible(in region: PersistentRegion) -> Bool {
    let geometry = HeapGeometry(
      unitShift: unitShift, laneCount: laneCount, laneSize: laneSize, rootCount: rootCount)
    guard uuid == region.uuid, geometry.isValid, unitCount > 0, unitCount <= region.size >> unitShift,
      unitCount <= ExtentEntry.maximumLength, tableCapacity >= unitCount,
      tableCapacity <= region.size / ExtentEntry.size
    else { return false }
    // One behind the other, and the table on units of its own.
    guard rootsOffset.rawValue >= region.payloadStart.rawValue + UInt64(HeapHeaderLayout.areaSize),
      lanesOffset.rawValue >= rootsOffset.rawValue, tableOffset.rawValue >= lanesOffset.rawValue
    else { return false }
    return region.contains(tableOffset, count: tableCapacity * ExtentEntry.size)
      && region.contains(rootsOffset, count: rootCount * RootLine.size)
      && region.contains(lanesOffset, count: laneCount * laneSize)
      && tableOffset.rawValue & UInt64((1 << unitShift) - 1) == 0 && rootsOffset.rawValue & 63 == 0
      && lanesOffset.rawValue & 63 == 0 && lanesOffset - rootsOffset >= rootCount * RootLine.size
      && systemLength <= tableUnits.lowerBound && tableUnits.upperBound <= unitCount
  }

  /// Units of what lies before the first table.
  var systemLength: Int { (lanesOffset.bytes + laneCount * laneSize + (1 << unitShift) - 1) >> unitShift }
  /// The units of the table.
  var tableUnits: Range<Int> {
    let first = tableOffset.bytes >> unitShift
    return first..<first + (tableCapacity * ExtentEntry.size + (1 << unitShift) - 1) >> unitShift
  }
}
