// The order law, which every conformance keeps and the tests hold each provided type to:
//
//   a < b in the type's documented order
//     exactly when  encoded(a) sorts bytewise (as unsigned bytes, a prefix first) before encoded(b),
//   and then        head(a) <= head(b), with equality only for `.bytes` keys of 8 bytes or more.
//
// Equality of keys is equality of their encodings.

/// A type with a stable name under which its encoding is recorded in a store.
///
/// Coding runs within the tree's calls: it may not change anything in the same file. What it changed would share the
/// fate of the call, above all its persist group: durable when the group is, whichever call was used.
public protocol DurableType: Sendable {
  /// The identity of the encoding, recorded in the catalogue when a tree is created and compared when it
  /// is opened: for instance `"Int64"`, `"String"`, `"(UInt32,String)"`.
  ///
  /// It names the encoding, not the Swift type: `Int` is recorded as `"Int64"`, `Data` as `"[UInt8]"`,
  /// and either opens what the other wrote. Change it whenever the encoding changes.
  static var durableTypeName: String { get }
}

/// How keys of a type stand in a slot of a tree.
@frozen public enum DurableKeyForm: UInt8, Sendable {
  /// The whole key is in the 8-byte head, always.
  case word
  /// The head holds the first 7 bytes and the length (see ``KeyHead``). A key of at most 7 bytes is
  /// wholly in its head; a longer one stands in a record.
  case bytes
}

/// A type whose values can be keys of a ``DurableBTree``.
///
/// Conforming types keep the *order law*: `a < b` in the documented order exactly when the encoded bytes
/// of `a` sort before those of `b`; heads compare likewise as unsigned integers, and may be equal for
/// different keys only where both are `.bytes` keys of 8 bytes or more.
///
/// Do not conform to this protocol directly: refine ``DurableWordKey`` for keys of at most 8 bytes of
/// fixed width, ``DurableBytesKey`` for all others. Both need two members. An enumeration with a raw
/// value of a key type needs none: `enum Kind: UInt8, DurableKey { … }`.
public protocol DurableKey: DurableType {
  /// How keys of this type stand in a slot. A constant of the type.
  static var durableKeyForm: DurableKeyForm { get }

  /// The width of every encoded key in bytes as a component of a composite key, or `nil` if it varies.
  ///
  /// For `.word` keys from 1 to 8, and every head is then below `1 << (8 * width)`; 8 unless said
  /// otherwise. For `.bytes` keys the length of every encoding; `nil` unless said otherwise.
  static var fixedKeyWidth: Int? { get }

  /// The order-preserving head: keys compare as their heads do, as unsigned integers.
  var keyHead: UInt64 { get }

  /// The key that stands wholly in `keyHead`; `nil` if no key of this type does.
  init?(keyHead: UInt64)

  /// Calls `body` with the encoded key (`.word`: the 8 bytes of the head, big-endian).
  ///
  /// The buffer is valid during the call. Nothing is thrown but what `body` throws.
  func withKeyBytes<R: ~Copyable, E: Error>(
    _ body: (UnsafeRawBufferPointer) throws(E) -> R
  ) throws(E) -> R

  /// The key with this encoding, or `nil` when it is not a valid one. Needs no alignment.
  init?(keyBytes: UnsafeRawBufferPointer)
}

extension DurableKey {
  @inlinable public static var fixedKeyWidth: Int? { durableKeyForm == .word ? 8 : nil }

  /// Compares two keys by their encodings: negative, zero or positive as this one sorts before, is equal
  /// to, or sorts after `other`. O(1) where the heads decide, else linear in the shorter key.
  @inlinable
  public func compareKey(to other: Self) -> Int {
    let (head, otherHead) = (keyHead, other.keyHead)
    if head != otherHead { return head < otherHead ? -1 : 1 }
    if Self.durableKeyForm == .word || KeyHead.isWhole(head) { return 0 }
    return withKeyBytes { bytes in
      other.withKeyBytes { KeyBytes.compare(bytes, $0) }
    }
  }
}

/// A key that is wholly in its 8-byte head.
///
/// ```swift
/// struct UserID: DurableWordKey {
///   var number: UInt64
///   static let durableTypeName = "UserID"
///   var keyHead: UInt64 { number }
///   init?(keyHead: UInt64) { number = keyHead }
/// }
/// ```
public protocol DurableWordKey: DurableKey {}

extension DurableWordKey {
  @inlinable public static var durableKeyForm: DurableKeyForm { .word }

  @inlinable
  public func withKeyBytes<R: ~Copyable, E: Error>(
    _ body: (UnsafeRawBufferPointer) throws(E) -> R
  ) throws(E) -> R {
    try withUnsafeBytes(of: keyHead.bigEndian, body)
  }

  @inlinable
  public init?(keyBytes: UnsafeRawBufferPointer) {
    guard keyBytes.count == 8 else { return nil }
    self.init(keyHead: UInt64(bigEndian: keyBytes.loadUnaligned(as: UInt64.self)))
  }
}

/// A key of varying length, or longer than 8 bytes: `withKeyBytes` and `init?(keyBytes:)` say all.
public protocol DurableBytesKey: DurableKey {}

extension DurableBytesKey {
  @inlinable public static var durableKeyForm: DurableKeyForm { .bytes }

  @inlinable
  public var keyHead: UInt64 { withKeyBytes { KeyHead.ofBytes($0) } }

  @inlinable
  public init?(keyHead: UInt64) {
    guard KeyHead.isWhole(keyHead), KeyHead.isValid(keyHead) else { return nil }
    guard let key = KeyHead.withBytes(keyHead, { Self(keyBytes: $0) }) else { return nil }
    self = key
  }
}

/// Order of encoded keys.
@frozen public enum KeyBytes {
  /// Compares as unsigned bytes, a prefix before what it begins: negative, zero or positive.
  /// Linear in the shorter of the two.
  @inlinable
  public static func compare(_ a: UnsafeRawBufferPointer, _ b: UnsafeRawBufferPointer) -> Int {
    let shared = min(a.count, b.count)
    if shared > 0, let left = a.baseAddress, let right = b.baseAddress {
      var offset = 0
      while offset &+ 8 <= shared {
        let x = left.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
        let y = right.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
        if x != y { return UInt64(bigEndian: x) < UInt64(bigEndian: y) ? -1 : 1 }
        offset &+= 8
      }
      while offset < shared {
        let x = left.load(fromByteOffset: offset, as: UInt8.self)
        let y = right.load(fromByteOffset: offset, as: UInt8.self)
        if x != y { return x < y ? -1 : 1 }
        offset &+= 1
      }
    }
    return a.count &- b.count
  }
}
