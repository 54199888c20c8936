public import NVMRegion

// Optional values: one byte, 0 for nil, or 1 and then the encoding of what is wrapped.

extension Optional: DurableType where Wrapped: DurableType {
  /// `"Int64?"`
  @inlinable public static var durableTypeName: String { "\(Wrapped.durableTypeName)?" }
}

/// Always of form ``DurableValueForm/bytes``. Reading copies nothing; writing copies the wrapped encoding.
extension Optional: DurableValue, DurableBytesValue where Wrapped: DurableValue {
  @inlinable
  public func withValueBytes<R: ~Copyable>(
    _ body: (UnsafeRawBufferPointer) throws(NVMError) -> R
  ) throws(NVMError) -> R {
    guard let self else { return try withUnsafeBytes(of: 0 as UInt8, body) }
    return try self.withValueBytes { (wrapped) throws(NVMError) -> R in
      try withUnsafeTemporaryAllocation(byteCount: wrapped.count &+ 1, alignment: 1) {
        (raw) throws(NVMError) -> R in
        raw[0] = 1
        UnsafeMutableRawBufferPointer(rebasing: raw[1...]).copyMemory(from: wrapped)
        return try body(UnsafeRawBufferPointer(raw))
      }
    }
  }

  @inlinable
  public init?(valueBytes: UnsafeRawBufferPointer) {
    switch valueBytes.first {
    case 0 where valueBytes.count == 1:
      self = .none
    case 1:
      guard let wrapped = Wrapped(valueBytes: UnsafeRawBufferPointer(rebasing: valueBytes[1...])) else {
        return nil
      }
      self = .some(wrapped)
    default:
      return nil
    }
  }
}
