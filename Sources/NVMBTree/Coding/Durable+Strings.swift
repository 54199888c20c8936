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
  public var keyHead: UInt64 {
    utf8.withContiguousStorageIfAvailable { KeyHead.ofBytes(UnsafeRawBufferPointer($0)) }
      ?? withUTF8Bytes { KeyHead.ofBytes($0) }
  }

  @inlinable
  public func withKeyBytes<R: ~Copyable, E: Error>(
    _ body: (UnsafeRawBufferPointer) throws(E) -> R
  ) throws(E) -> R {
    try withUTF8Bytes(body)
  }

  /// `nil` when the bytes are not valid UTF-8.
  @inlinable
  public init?(keyBytes: UnsafeRawBufferPointer) {
    self.init(checkingUTF8: keyBytes)
  }

  @inlinable
  public func withValueBytes<R: ~Copyable>(
    _ body: (UnsafeRawBufferPointer) throws(NVMError) -> R
  ) throws(NVMError) -> R {
    try withUTF8Bytes(body)
  }

  /// `nil` when the bytes are not valid UTF-8.
  @inlinable
  public init?(valueBytes: UnsafeRawBufferPointer) {
    self.init(checkingUTF8: valueBytes)
  }
}

extension String {
  /// The UTF-8 bytes, without a copy. (The standard library's own call neither passes typed errors on
  /// nor returns what is not copyable, and `utf8.span` is slower.)
  @inlinable @inline(__always)
  func withUTF8Bytes<R: ~Copyable, E: Error>(
    _ body: (UnsafeRawBufferPointer) throws(E) -> R
  ) throws(E) -> R {
    var result: Result<R, E>?
    let isContiguous: Void? = utf8.withContiguousStorageIfAvailable { bytes in
      do throws(E) {
        result = .success(try body(UnsafeRawBufferPointer(bytes)))
      } catch {
        result = .failure(error)
      }
    }
    guard isContiguous != nil, let result = result.take() else { return try utf8.span.withUnsafeBytes(body) }
    return try result.get()
  }

  /// The string with these bytes, or `nil` when they are not UTF-8.
  ///
  /// Decoding replaces what is not UTF-8, so that the bytes differ then; this takes half the time of
  /// `String(validating:as:)`.
  @inlinable
  init?(checkingUTF8 bytes: UnsafeRawBufferPointer) {
    self.init(decoding: bytes, as: UTF8.self)
    guard withUTF8Bytes({ $0.count == bytes.count && KeyBytes.compare($0, bytes) == 0 }) else { return nil }
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
