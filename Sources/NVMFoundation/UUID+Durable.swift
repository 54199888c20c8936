public import Foundation
public import NVMBTree
public import NVMRegion

/// 16 bytes, in the order in which a UUID is written: the order of its uppercase text.
extension UUID: DurableBytesKey, DurableBytesValue {
  @inlinable public static var durableTypeName: String { "UUID" }
  @inlinable public static var fixedKeyWidth: Int? { 16 }

  @inlinable
  public func withKeyBytes<R: ~Copyable, E: Error>(
    _ body: (UnsafeRawBufferPointer) throws(E) -> R
  ) throws(E) -> R {
    try withUnsafeBytes(of: uuid, body)
  }

  /// `nil` unless there are exactly 16 bytes.
  @inlinable
  public init?(keyBytes: UnsafeRawBufferPointer) {
    guard keyBytes.count == 16 else { return nil }
    self.init(uuid: keyBytes.loadUnaligned(as: uuid_t.self))
  }

  @inlinable
  public func withValueBytes<R: ~Copyable>(
    _ body: (UnsafeRawBufferPointer) throws(NVMError) -> R
  ) throws(NVMError) -> R {
    try withUnsafeBytes(of: uuid, body)
  }

  /// `nil` unless there are exactly 16 bytes.
  @inlinable
  public init?(valueBytes: UnsafeRawBufferPointer) { self.init(keyBytes: valueBytes) }
}
