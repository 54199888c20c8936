/// A place in a region: bytes from its start. Offset 0 is the superblock and serves as null.
///
/// Everything persistent refers by offset, never by address, so a file opens at any address.
@frozen public struct Offset: RawRepresentable, Hashable, Comparable, Sendable, BitwiseCopyable {
  public var rawValue: UInt64

  @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
  @inlinable public init(_ bytes: Int) { rawValue = UInt64(bitPattern: Int64(bytes)) }

  /// Refers to nothing.
  @inlinable public static var null: Offset { Offset(rawValue: 0) }
  @inlinable public var isNull: Bool { rawValue == 0 }
  /// The offset as a signed integer, for arithmetic with sizes. Meaningless above `Int.max`.
  @inlinable public var bytes: Int { Int(truncatingIfNeeded: rawValue) }

  @inlinable public static func < (a: Offset, b: Offset) -> Bool { a.rawValue < b.rawValue }
  @inlinable public static func + (a: Offset, bytes: Int) -> Offset {
    Offset(rawValue: a.rawValue &+ UInt64(bitPattern: Int64(bytes)))
  }
  @inlinable public static func - (a: Offset, bytes: Int) -> Offset {
    Offset(rawValue: a.rawValue &- UInt64(bitPattern: Int64(bytes)))
  }
  /// The distance in bytes.
  @inlinable public static func - (a: Offset, b: Offset) -> Int {
    Int(truncatingIfNeeded: a.rawValue &- b.rawValue)
  }
}

extension Offset: CustomStringConvertible {
  public var description: String { "0x" + String(rawValue, radix: 16) }
}

/// A typed offset: eight bytes that may be stored on the medium and mean the same after reopening.
@frozen public struct PersistentPointer<Pointee: BitwiseCopyable>: Hashable, Sendable, BitwiseCopyable {
  public var offset: Offset

  @inlinable public init(_ offset: Offset) { self.offset = offset }
  /// Refers to nothing.
  @inlinable public static var null: PersistentPointer { PersistentPointer(.null) }
  @inlinable public var isNull: Bool { offset.isNull }
  /// The pointer `count` strides further.
  @inlinable public func advanced(by count: Int) -> PersistentPointer {
    PersistentPointer(offset + count &* MemoryLayout<Pointee>.stride)
  }
}
