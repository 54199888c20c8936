public import Foundation
public import NVMBTree
public import NVMRegion

// Data has the encoding of `[UInt8]` and its name in the catalogue: either opens what the other wrote.

/// Ordered bytewise, a prefix before what it begins.
extension Data: DurableBytesKey, DurableBytesValue {
  @inlinable public static var durableTypeName: String { "[UInt8]" }

  @inlinable
  public func withKeyBytes<R: ~Copyable, E: Error>(
    _ body: (UnsafeRawBufferPointer) throws(E) -> R
  ) throws(E) -> R {
    try bytes.withUnsafeBytes(body)
  }

  @inlinable
  public init?(keyBytes: UnsafeRawBufferPointer) { self.init(keyBytes) }

  @inlinable
  public func withValueBytes<R: ~Copyable>(
    _ body: (UnsafeRawBufferPointer) throws(NVMError) -> R
  ) throws(NVMError) -> R {
    try bytes.withUnsafeBytes(body)
  }

  @inlinable
  public init?(valueBytes: UnsafeRawBufferPointer) { self.init(valueBytes) }
}
