import NVMRegion

// The word of a slot whose key is wholly in the head and whose value is bytes (RecordLayout.swift has all cases):
//
//   63                                8 7        0
//   ┌──────────────────────────────────┬──────────┐
//   │ the bytes, the first one lowest  │  0 … 7   │  a short value and its length
//   ├──────────────────────────────────┼──────────┤
//   │ the record's offset              │   0xFF   │  a longer one
//   └──────────────────────────────────┴──────────┘

@usableFromInline enum SlotValue {
  static let maximumLength = 7
  private static let recordTag: UInt64 = 0xFF

  /// The word for a value of at most ``maximumLength`` bytes.
  static func word(_ value: UnsafeRawBufferPointer) -> UInt64 {
    var word = UInt64(value.count)
    for (i, byte) in value.enumerated() { word |= UInt64(byte) &<< UInt64(8 &+ 8 &* i) }
    return word
  }

  /// The word for a value in a record.
  static func word(_ record: Offset) -> UInt64 { record.rawValue &<< 8 | recordTag }

  /// Where the record of a longer value lies.
  @inline(__always) static func record(_ word: UInt64) -> Offset? {
    word & 0xFF == recordTag ? Offset(rawValue: word &>> 8) : nil
  }

  /// The length of a short value. An optimistic reader and a damaged leaf may give any word, so it is cut.
  @inlinable @inline(__always) static func length(_ word: UInt64) -> Int { Int(min(word & 0xFF, 7)) }

  /// The bytes of a short value, as they stand in memory.
  @inlinable @inline(__always) static func bytes(_ word: UInt64) -> UInt64 { (word &>> 8).littleEndian }
}
