// A record: the payload of a heap block tagged `treeRecord` and owned by the tree. Holds what does not fit in a
// slot: a key of 8 bytes or more with its value, or a value of 8 bytes or more alone. Written once, before any
// slot refers to it.
//
// OFFSET SIZE  DESCRIPTION
//      0    4  CRC-32C of bytes 4 ..< end, seeded with tree number and record offset
//      4    4  key length in bytes, 0 where the key is in the slot
//      8    8  value length in bytes
//     16    k  key
//   16+k    v  value
//
// The word of a slot
//   keys wholly in the head, word values      the value
//   keys wholly in the head, byte values      itself, or its record's offset: SlotValue.swift
//   keys of 8 bytes or more                   the record's offset
// Which of them applies follows from the types and the head: nothing is guessed.

enum RecordLayout {
  static let headerSize = 16
  static let checksum = 0
  static let keyLength = 4
  static let valueLength = 8
  /// Longest key, in encoded bytes.
  static let maximumKeyLength = 1 << 20
  /// Longest value, in bytes.
  static let maximumValueLength = 1 << 40
}
