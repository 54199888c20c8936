import CNVM
import NVMRegion

/// Bytes of a region file that tests damage, read by the offsets of FORMAT.md and not by the code under test.
struct Image {
  var bytes: [UInt8]
  static let magic = 0
  static let version = 8
  static let byteOrder = 12
  static let readOnlyCompatible = 24
  static let incompatible = 32
  static let sequence = 56
  static let size = 64
  static let payload = 72
  static let media = 80
  static let clean = 84
  static let incarnation = 88
  static let checksum = 248

  func u64(_ at: Int) -> UInt64 { (0..<8).reduce(0) { $0 | UInt64(bytes[at + $1]) << UInt64(8 * $1) } }
  mutating func set<T: FixedWidthInteger>(_ value: T, at: Int) {
    withUnsafeBytes(of: value.littleEndian) { raw in
      for (i, byte) in raw.enumerated() { bytes[at + i] = byte }
    }
  }
  /// Changes a field of a copy and makes its checksum right again.
  mutating func forge<T: FixedWidthInteger>(copy: Int, _ field: Int, _ value: T) {
    set(value, at: copy * 4096 + field)
    let crc = bytes.withUnsafeBytes { nvm_crc32c(0, $0.baseAddress! + copy * 4096, 248) }
    set(crc, at: copy * 4096 + Image.checksum)
  }
  /// The copy with the higher sequence.
  var newest: Int { u64(Image.sequence) > u64(4096 + Image.sequence) ? 0 : 1 }
}
