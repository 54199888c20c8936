public import NVMRegion

// Integers. Key: the sign bit flipped, so that unsigned order is the integers' order; in the low bytes
// of the head, zeros above. Value: the bit pattern, zeros above. A word with anything above is invalid.
// `Int` and `UInt` are recorded as the integer of their width.

extension DurableType where Self: FixedWidthInteger {
  /// `"Int8"` … `"UInt128"`: an integer is recorded by its width and sign.
  @inlinable public static var durableTypeName: String { "\(isSigned ? "Int" : "UInt")\(bitWidth)" }
}

extension DurableWordKey where Self: FixedWidthInteger {
  @inlinable public static var fixedKeyWidth: Int? { bitWidth &>> 3 }

  @inlinable @inline(__always)
  public var keyHead: UInt64 {
    UInt64(truncatingIfNeeded: self ^ Self.min) & (~0 &>> UInt64(64 &- Self.bitWidth))
  }

  @inlinable @inline(__always)
  public init?(keyHead: UInt64) {
    guard keyHead & ~(~0 &>> UInt64(64 &- Self.bitWidth)) == 0 else { return nil }
    self = Self(truncatingIfNeeded: keyHead) ^ Self.min
  }
}

extension DurableWordValue where Self: FixedWidthInteger {
  @inlinable @inline(__always)
  public var valueWord: UInt64 {
    UInt64(truncatingIfNeeded: self) & (~0 &>> UInt64(64 &- Self.bitWidth))
  }

  @inlinable @inline(__always)
  public init?(valueWord: UInt64) {
    guard valueWord & ~(~0 &>> UInt64(64 &- Self.bitWidth)) == 0 else { return nil }
    self = Self(truncatingIfNeeded: valueWord)
  }
}

extension Int: DurableWordKey, DurableWordValue {}
extension Int8: DurableWordKey, DurableWordValue {}
extension Int16: DurableWordKey, DurableWordValue {}
extension Int32: DurableWordKey, DurableWordValue {}
extension Int64: DurableWordKey, DurableWordValue {}
extension UInt: DurableWordKey, DurableWordValue {}
extension UInt8: DurableWordKey, DurableWordValue {}
extension UInt16: DurableWordKey, DurableWordValue {}
extension UInt32: DurableWordKey, DurableWordValue {}
extension UInt64: DurableWordKey, DurableWordValue {}

// 16 bytes, big-endian, as a key; as it stands in memory as a value.

extension DurableBytesKey where Self: FixedWidthInteger & BitwiseCopyable {
  @inlinable public static var fixedKeyWidth: Int? { bitWidth &>> 3 }

  @inlinable
  public var keyHead: UInt64 {
    // The first 7 bytes, and 8 for the length: longer than 7.
    UInt64(truncatingIfNeeded: (self ^ Self.min) &>> Self(truncatingIfNeeded: Self.bitWidth &- 64)) & ~0xFF
      | 8
  }

  @inlinable
  public func withKeyBytes<R: ~Copyable, E: Error>(
    _ body: (UnsafeRawBufferPointer) throws(E) -> R
  ) throws(E) -> R {
    try withUnsafeBytes(of: (self ^ Self.min).bigEndian, body)
  }

  @inlinable
  public init?(keyBytes: UnsafeRawBufferPointer) {
    guard keyBytes.count == MemoryLayout<Self>.size else { return nil }
    self = Self(bigEndian: keyBytes.loadUnaligned(as: Self.self)) ^ Self.min
  }
}

extension DurableBytesValue where Self: FixedWidthInteger & BitwiseCopyable {
  @inlinable
  public func withValueBytes<R: ~Copyable>(
    _ body: (UnsafeRawBufferPointer) throws(NVMError) -> R
  ) throws(NVMError) -> R {
    try withUnsafeBytes(of: self, body)
  }

  @inlinable
  public init?(valueBytes: UnsafeRawBufferPointer) {
    guard valueBytes.count == MemoryLayout<Self>.size else { return nil }
    self = valueBytes.loadUnaligned(as: Self.self)
  }
}

@available(macOS 15.0, *)
extension Int128: DurableBytesKey, DurableBytesValue {}
@available(macOS 15.0, *)
extension UInt128: DurableBytesKey, DurableBytesValue {}
