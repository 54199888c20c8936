/// A key of two parts, ordered by the first and then by the second.
///
/// ```swift
/// let visits = try store.tree("visits", of: CompositeKey2<String, Date>.self, Int.self)
/// try visits.updateValue(1, forKey: .init("ada", now))
/// ```
///
/// Order, equality and hash are those of the parts' encodings: for strings UTF-8 order, for floating point
/// the total order (so that even a NaN equals itself). Parts of fixed width up to 8 bytes in all make a
/// `.word` key, as fast as an integer; others are encoded anew at each use (linear in their length).
@frozen public struct CompositeKey2<First: DurableKey, Second: DurableKey>: DurableKey, Comparable, Hashable {
  public var first: First
  public var second: Second

  @inlinable public init(_ first: First, _ second: Second) { (self.first, self.second) = (first, second) }

  /// The parts as a tuple.
  @inlinable public var values: (First, Second) { (first, second) }

  /// `"(A,B)"` with the parts' names.
  @inlinable public static var durableTypeName: String {
    "(\(First.durableTypeName),\(Second.durableTypeName))"
  }

  @inlinable public static var fixedKeyWidth: Int? {
    guard let first = First.fixedKeyWidth, let second = Second.fixedKeyWidth else { return nil }
    return first &+ second
  }

  @inlinable public static var durableKeyForm: DurableKeyForm {
    guard First.durableKeyForm == .word, Second.durableKeyForm == .word else { return .bytes }
    guard let width = fixedKeyWidth else { return .bytes }
    return width <= 8 ? .word : .bytes
  }

  @inlinable public var keyHead: UInt64 {
    guard Self.durableKeyForm == .word else { return withKeyBytes { KeyHead.ofBytes($0) } }
    return first.keyHead &<< (8 &* UInt64(Second.fixedKeyWidth ?? 0)) | second.keyHead
  }

  @inlinable public init?(keyHead: UInt64) {
    guard Self.durableKeyForm == .word else {
      guard KeyHead.isWhole(keyHead), KeyHead.isValid(keyHead) else { return nil }
      guard let key = KeyHead.withBytes(keyHead, { Self(keyBytes: $0) }) else { return nil }
      self = key
      return
    }
    let shift = 8 &* UInt64(Second.fixedKeyWidth ?? 0)
    guard
      let first = First(keyHead: keyHead &>> shift),
      let second = Second(keyHead: keyHead & ((1 &<< shift) &- 1))
    else { return nil }
    self.init(first, second)
  }

  @inlinable public func withKeyBytes<R: ~Copyable, E: Error>(
    _ body: (UnsafeRawBufferPointer) throws(E) -> R
  ) throws(E) -> R {
    if Self.durableKeyForm == .word { return try withUnsafeBytes(of: keyHead.bigEndian, body) }
    let count =
      KeyComponent.encodedCount(first, isLast: false) &+ KeyComponent.encodedCount(second, isLast: true)
    return try withUnsafeTemporaryAllocation(byteCount: count, alignment: 8) { (raw) throws(E) -> R in
      if var target = raw.baseAddress {
        target += KeyComponent.encode(first, isLast: false, to: target)
        target += KeyComponent.encode(second, isLast: true, to: target)
      }
      return try body(UnsafeRawBufferPointer(raw))
    }
  }

  @inlinable public init?(keyBytes: UnsafeRawBufferPointer) {
    guard Self.durableKeyForm == .bytes else {
      guard keyBytes.count == 8 else { return nil }
      self.init(keyHead: UInt64(bigEndian: keyBytes.loadUnaligned(as: UInt64.self)))
      return
    }
    var rest = keyBytes
    guard
      let first = KeyComponent<First>.decode(&rest, isLast: false),
      let second = KeyComponent<Second>.decode(&rest, isLast: true)
    else { return nil }
    self.init(first, second)
  }

  @inlinable public func compareKey(to other: Self) -> Int {
    let order = first.compareKey(to: other.first)
    return order != 0 ? order : second.compareKey(to: other.second)
  }

  @inlinable public static func < (a: Self, b: Self) -> Bool { a.compareKey(to: b) < 0 }
  @inlinable public static func == (a: Self, b: Self) -> Bool { a.compareKey(to: b) == 0 }

  @inlinable public func hash(into hasher: inout Hasher) {
    KeyComponent.hash(first, into: &hasher)
    KeyComponent.hash(second, into: &hasher)
  }
}

extension CompositeKey2: CustomStringConvertible {
  public var description: String { "(\(first), \(second))" }
}
