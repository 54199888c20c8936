// The superblock, format 0. Two copies, each alone in a 4 KiB page: A at 0, B at 4096.
//
// OFFSET SIZE  DESCRIPTION
//      0    8  magic "swiftNVM"
//      8    4  format version
//     12    4  byte-order mark 0x01020304
//     16    8  compatible features: an unknown bit may be ignored
//     24    8  read-only-compatible features: an unknown bit forbids writing
//     32    8  incompatible features: an unknown bit forbids opening
//     40   16  UUID of the region
//     56    8  sequence: the valid copy with the higher one holds
//     64    8  region size in bytes (multiple of 4096); the file may be longer after a crash in growth
//     72    8  payload offset: what lies before is the region's own
//     80    4  media the file was last written as (RegionMedia)
//     84    4  1 after a clean close, else 0
//     88    8  incarnation: bumped at each writable open
//     96    8  journal offset, 0 without a journal
//    104    8  journal size in bytes
//    112  136  zero
//    248    4  CRC-32C of bytes 0 ..< 248
//    252    4  zero
//
// 256 bytes stand in one 512-byte sector. A copy is written whole, flushed and fenced before the other
// is touched, so at every moment one copy is valid; the update takes effect with the first copy and
// survives the loss of either once both are written. Space that a superblock names is reused only then.

package enum SuperblockLayout {
  package static let size = 256
  package static let copyStride = 4096
  package static let headerSize = 2 * copyStride
  package static let magic: UInt64 = 0x4D56_4E74_6669_7773  // "swiftNVM", little-endian
  package static let formatVersion: UInt32 = 0
  package static let byteOrderMark: UInt32 = 0x0102_0304
  package static let checksummed = 248
  /// What is larger is no size of ours: addresses have 47 bits.
  package static let largestSize: UInt64 = 1 << 47
  /// What is larger is no sequence or incarnation of ours: no file is opened so often.
  package static let largestCount: UInt64 = 1 << 62

  enum Field {
    static let magic = 0
    static let version = 8
    static let byteOrder = 12
    static let compatible = 16
    static let readOnlyCompatible = 24
    static let incompatible = 32
    static let uuid = 40
    static let sequence = 56
    static let size = 64
    static let payload = 72
    static let media = 80
    static let clean = 84
    static let incarnation = 88
    static let journalOffset = 96
    static let journalSize = 104
    static let checksum = 248
  }
  /// Feature bits that this release knows.
  static let knownReadOnlyCompatible: UInt64 = 0
  static let knownIncompatible: UInt64 = journalInUse
  /// Incompatible: the journal may hold changes that are not in their places. Whoever opens the file carries them out
  /// first.
  static let journalInUse: UInt64 = 1
}
