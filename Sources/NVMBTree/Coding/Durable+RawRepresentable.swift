public import NVMRegion

// A type with a raw value is coded as it: same bytes, same order, same name in the catalogue. A raw value
// that the type does not have (a case that an older or newer program knows) reads as `nil`.

extension DurableType where Self: RawRepresentable, RawValue: DurableType {
  @inlinable public static var durableTypeName: String { RawValue.durableTypeName }
}

extension DurableKey where Self: RawRepresentable, RawValue: DurableKey {
  @inlinable public static var durableKeyForm: DurableKeyForm { RawValue.durableKeyForm }
  @inlinable public static var fixedKeyWidth: Int? { RawValue.fixedKeyWidth }
  @inlinable public var keyHead: UInt64 { rawValue.keyHead }
  @inlinable public init?(keyHead: UInt64) {
    guard let raw = RawValue(keyHead: keyHead) else { return nil }
    self.init(rawValue: raw)
  }
  @inlinable public func withKeyBytes<R: ~Copyable, E: Error>(
    _ body: (UnsafeRawBufferPointer) throws(E) -> R
  ) throws(E) -> R {
    try rawValue.withKeyBytes(body)
  }
  @inlinable public init?(keyBytes: UnsafeRawBufferPointer) {
    guard let raw = RawValue(keyBytes: keyBytes) else { return nil }
    self.init(rawValue: raw)
  }
}

extension DurableValue where Self: RawRepresentable, RawValue: DurableValue {
  @inlinable public static var durableValueForm: DurableValueForm { RawValue.durableValueForm }
  @inlinable public var valueWord: UInt64 { rawValue.valueWord }
  @inlinable public init?(valueWord: UInt64) {
    guard let raw = RawValue(valueWord: valueWord) else { return nil }
    self.init(rawValue: raw)
  }
  @inlinable public func withValueBytes<R: ~Copyable>(
    _ body: (UnsafeRawBufferPointer) throws(NVMError) -> R
  ) throws(NVMError) -> R {
    try rawValue.withValueBytes(body)
  }
  @inlinable public init?(valueBytes: UnsafeRawBufferPointer) {
    guard let raw = RawValue(valueBytes: valueBytes) else { return nil }
    self.init(rawValue: raw)
  }
}
