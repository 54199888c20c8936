public import NVMRegion

// String: its UTF-8. [UInt8]: itself.
// String order and equality are those of UTF-8 (equivalently, of Unicode scalar values).

/// Ordered by its UTF-8 bytes.
///
/// This is *not* `String.<` and not `String.==`, which compare by canonical equivalence: "é" (one scalar)
/// and "e\u{301}" (two) are equal strings and two different keys. Normalise keys where both may occur.
extension String: DurableBytesKey, DurableBytesValue {
  @inlinable public static var durableTypeName: String { "String" }

  @inlinable
  public func withKeyBytes<R: ~Copyable, E: Error>(
    _ body: (UnsafeRawBufferPointer) throws(E) -> R
  ) throws(E) -> R {
    try utf8.span.withUnsafeBytes(body)
  }

  /// `nil` when the bytes are not valid UTF-8.
  @inlinable
  public init?(keyBytes: UnsafeRawBufferPointer) {
    self.init(validating: keyBytes, as: UTF8.self)
  }

  @inlinable
  public func withValueBytes<R: ~Copyable>(
    _ body: (UnsafeRawBufferPointer) throws(NVMError) -> R
  ) throws(NVMError) -> R {
    try utf8.span.withUnsafeBytes(body)
  }

  /// `nil` when the bytes are not valid UTF-8.
  @inlinable
  public init?(valueBytes: UnsafeRawBufferPointer) {
    self.init(validating: valueBytes, as: UTF8.self)
  }
}

extension Array: DurableType where Element == UInt8 {
  @inlinable public static var durableTypeName: String { "[UInt8]" }
}

/// Ordered bytewise, a prefix before what it begins.
extension Array: DurableKey, DurableBytesKey where Element == UInt8 {
  @inlinable
  public func withKeyBytes<R: ~Copyable, E: Error>(
    _ body: (UnsafeRawBufferPointer) throws(E) -> R
  ) throws(E) -> R {
    try span.withUnsafeBytes(body)
  }

  @inlinable
  public init?(keyBytes: UnsafeRawBufferPointer) { self.init(keyBytes) }
}

extension Array: DurableValue, DurableBytesValue where Element == UInt8 {
  @inlinable
  public func withValueBytes<R: ~Copyable>(
    _ body: (UnsafeRawBufferPointer) throws(NVMError) -> R
  ) throws(NVMError) -> R {
    try span.withUnsafeBytes(body)
  }

  @inlinable
  public init?(valueBytes: UnsafeRawBufferPointer) { self.init(valueBytes) }
}
