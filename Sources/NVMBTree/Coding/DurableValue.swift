public import NVMRegion

// Values are not ordered: a `.word` value is any 64-bit pattern of its type, a `.bytes` value any string
// of bytes. Reading is total: whatever stands on the medium gives a value of the type or `nil`.

/// How values of a type stand in a slot of a tree.
@frozen public enum DurableValueForm: UInt8, Sendable {
  /// The whole value is in the slot's 8-byte word, always.
  case word
  /// The value is a string of bytes of varying length, or longer than 8 bytes.
  case bytes
}

/// A type whose values can be stored in a ``DurableBTree``.
///
/// Conform a `BitwiseCopyable` structure through ``DurableStruct`` (no member needed), an enumeration
/// with a raw value directly (`enum State: UInt8, DurableValue { … }`, no member needed), others through
/// ``DurableWordValue`` or ``DurableBytesValue`` (two members and a name).
public protocol DurableValue: DurableType {
  /// How values of this type stand in a slot. A constant of the type.
  static var durableValueForm: DurableValueForm { get }

  /// The value as a word. Asked of `.word` types only; 0 for others.
  var valueWord: UInt64 { get }

  /// The value with this word, or `nil` when there is none. Asked of `.word` types only.
  init?(valueWord: UInt64)

  /// Calls `body` with the encoded value (`.word`: the 8 bytes of the word as they stand in memory).
  ///
  /// The buffer is valid during the call.
  /// - Throws: what `body` throws, or ``NVMError/Code/invalidArgument`` for a value that has no encoding
  ///   (a `Codable` value whose encoder fails; the types of this module never do). `body` has then not
  ///   been called, and so an update of a tree ends before anything is changed.
  func withValueBytes<R: ~Copyable>(
    _ body: (UnsafeRawBufferPointer) throws(NVMError) -> R
  ) throws(NVMError) -> R

  /// The value with this encoding, or `nil` when it is not a valid one. Needs no alignment.
  init?(valueBytes: UnsafeRawBufferPointer)
}

/// A value that is wholly in an 8-byte word.
public protocol DurableWordValue: DurableValue {}

extension DurableWordValue {
  @inlinable public static var durableValueForm: DurableValueForm { .word }

  @inlinable
  public func withValueBytes<R: ~Copyable>(
    _ body: (UnsafeRawBufferPointer) throws(NVMError) -> R
  ) throws(NVMError) -> R {
    try withUnsafeBytes(of: valueWord, body)
  }

  @inlinable
  public init?(valueBytes: UnsafeRawBufferPointer) {
    guard valueBytes.count == 8 else { return nil }
    self.init(valueWord: valueBytes.loadUnaligned(as: UInt64.self))
  }
}

/// A value of varying length, or longer than 8 bytes.
public protocol DurableBytesValue: DurableValue {}

extension DurableBytesValue {
  @inlinable public static var durableValueForm: DurableValueForm { .bytes }
  @inlinable public var valueWord: UInt64 { 0 }
  @inlinable public init?(valueWord: UInt64) { return nil }
}
