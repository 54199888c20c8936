// The wear file, format 0: NAME.wear beside the region NAME, written whole at close under another name and then renamed.
// It is not needed for anything, and a wrong one is ignored.
//
// OFFSET  SIZE  DESCRIPTION
//      0     8  magic "nvmWEAR0"
//      8    16  UUID of the region
//     24     8  number of lines n
//     32     4  CRC-32C of bytes 0 ..< 32 and of all that follows the header
//     36    28  zero
//     64    4n  write-backs of each 64-byte line of the file
//  64+4n    4n  allocations of each line

enum WearFileLayout {
  static let headerSize = 64
  static let magic: UInt64 = 0x3052_4145_576D_766E  // "nvmWEAR0"
  static let suffix = ".wear"
}
