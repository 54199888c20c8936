/// A key of three parts, ordered by the first, then the second, then the third.
///
/// ```swift
/// let edges = try store.tree("edges", of: CompositeKey3<UInt32, UInt16, UInt16>.self, Double.self)
/// try edges.updateValue(0.5, forKey: .init(7, 1, 2))   // 8 bytes in all: as fast as an integer
/// ```
///
/// Order, equality, hash and cost are as in ``CompositeKey2``; the encoding is that of
/// `CompositeKey2<First, CompositeKey2<Second, Third>>`.
@frozen
public struct CompositeKey3<First: DurableKey, Second: DurableKey, Third: DurableKey>:
  DurableKey, Comparable, Hashable
{
  @usableFromInline typealias Nested = CompositeKey2<First, CompositeKey2<Second, Third>>

  @usableFromInline var nested: Nested

  @inlinable init(nested: Nested) { self.nested = nested }

  @inlinable public init(_ first: First, _ second: Second, _ third: Third) {
    nested = .init(first, .init(second, third))
  }

  @inlinable public var first: First {
    get { nested.first }
    set { nested.first = newValue }
  }
  @inlinable public var second: Second {
    get { nested.second.first }
    set { nested.second.first = newValue }
  }
  @inlinable public var third: Third {
    get { nested.second.second }
    set { nested.second.second = newValue }
  }

  /// The parts as a tuple.
  @inlinable public var values: (First, Second, Third) { (first, second, third) }

  /// `"(A,B,C)"` with the parts' names.
  @inlinable public static var durableTypeName: String {
    "(\(First.durableTypeName),\(Second.durableTypeName),\(Third.durableTypeName))"
  }

  @inlinable public static var fixedKeyWidth: Int? { Nested.fixedKeyWidth }
  @inlinable public static var durableKeyForm: DurableKeyForm { Nested.durableKeyForm }
  @inlinable public var keyHead: UInt64 { nested.keyHead }

  @inlinable public init?(keyHead: UInt64) {
    guard let nested = Nested(keyHead: keyHead) else { return nil }
    self.init(nested: nested)
  }

  @inlinable public func withKeyBytes<R: ~Copyable, E: Error>(
    _ body: (UnsafeRawBufferPointer) throws(E) -> R
  ) throws(E) -> R {
    try nested.withKeyBytes(body)
  }

  @inlinable public init?(keyBytes: UnsafeRawBufferPointer) {
    guard let nested = Nested(keyBytes: keyBytes) else { return nil }
    self.init(nested: nested)
  }

  @inlinable public func compareKey(to other: Self) -> Int { nested.compareKey(to: other.nested) }
  @inlinable public static func < (a: Self, b: Self) -> Bool { a.compareKey(to: b) < 0 }
  @inlinable public static func == (a: Self, b: Self) -> Bool { a.compareKey(to: b) == 0 }
  @inlinable public func hash(into hasher: inout Hasher) { nested.hash(into: &hasher) }
}

extension CompositeKey3: CustomStringConvertible {
  public var description: String { "(\(first), \(second), \(third))" }
}
