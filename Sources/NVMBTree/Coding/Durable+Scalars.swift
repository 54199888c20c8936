// Bool: false before true, 0 and 1.
//
// Floating point, as keys: IEEE 754 total order by bit pattern (signed magnitude made unsigned):
//   -NaN < -infinity < … < -0.0 < +0.0 < … < +infinity < +NaN
// NaNs order by payload. Every bit pattern is a key of its own: -0.0 and +0.0 are two keys, and a NaN is
// found again by the same NaN. (`Double.nan` is positive; what a division makes may be negative.)

extension Bool: DurableWordKey, DurableWordValue {
  @inlinable public static var durableTypeName: String { "Bool" }
  @inlinable public static var fixedKeyWidth: Int? { 1 }
  @inlinable public var keyHead: UInt64 { self ? 1 : 0 }
  @inlinable public init?(keyHead: UInt64) {
    guard keyHead <= 1 else { return nil }
    self = keyHead == 1
  }
  @inlinable public var valueWord: UInt64 { self ? 1 : 0 }
  @inlinable public init?(valueWord: UInt64) { self.init(keyHead: valueWord) }
}

/// Ordered by IEEE 754 total order: -0.0 before +0.0, negative NaNs first, positive NaNs last.
extension Double: DurableWordKey, DurableWordValue {
  @inlinable public static var durableTypeName: String { "Double" }
  @inlinable public var keyHead: UInt64 {
    let bits = bitPattern
    return bits ^ (UInt64(bitPattern: Int64(bitPattern: bits) &>> 63) | 1 &<< 63)
  }
  @inlinable public init?(keyHead: UInt64) {
    self.init(bitPattern: keyHead ^ (~UInt64(bitPattern: Int64(bitPattern: keyHead) &>> 63) | 1 &<< 63))
  }
  @inlinable public var valueWord: UInt64 { bitPattern }
  @inlinable public init?(valueWord: UInt64) { self.init(bitPattern: valueWord) }
}

/// Ordered by IEEE 754 total order: -0.0 before +0.0, negative NaNs first, positive NaNs last.
extension Float: DurableWordKey, DurableWordValue {
  @inlinable public static var durableTypeName: String { "Float" }
  @inlinable public static var fixedKeyWidth: Int? { 4 }
  @inlinable public var keyHead: UInt64 {
    let bits = bitPattern
    return UInt64(bits ^ (UInt32(bitPattern: Int32(bitPattern: bits) &>> 31) | 1 &<< 31))
  }
  @inlinable public init?(keyHead: UInt64) {
    guard let key = UInt32(exactly: keyHead) else { return nil }
    self.init(bitPattern: key ^ (~UInt32(bitPattern: Int32(bitPattern: key) &>> 31) | 1 &<< 31))
  }
  @inlinable public var valueWord: UInt64 { UInt64(bitPattern) }
  @inlinable public init?(valueWord: UInt64) {
    guard let bits = UInt32(exactly: valueWord) else { return nil }
    self.init(bitPattern: bits)
  }
}
