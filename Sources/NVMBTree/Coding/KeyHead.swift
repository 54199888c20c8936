// Heads of `.bytes` keys: the first word that the tree compares.
//
//   bits 63 … 8   the key's first 7 bytes, big-endian, padded with zeros
//   bits  7 … 0   min(length, 8)
//
// Invariant: for keys a, b in bytewise order, a < b implies head(a) <= head(b), and the heads are equal
// only when a = b or when both are at least 8 bytes long and share their first 7. A low byte of at
// most 7 therefore means that the head *is* the key ("a" and "a\0" differ in their lengths).

/// Building and reading the 8-byte heads of keys of form ``DurableKeyForm/bytes``.
///
/// Everything here is pure and free of allocation; heads are plain integers whose unsigned order is the
/// order of the keys.
@frozen public enum KeyHead {
  /// Keys up to this many bytes stand wholly in their head.
  @inlinable public static var wholeLimit: Int { 7 }

  /// The head of a key with these bytes. O(1): reads at most the first 8 bytes.
  @inlinable @inline(__always)
  public static func ofBytes(_ bytes: UnsafeRawBufferPointer) -> UInt64 {
    let count = bytes.count
    guard let base = bytes.baseAddress, count > 0 else { return 0 }
    if count >= 8 {
      return UInt64(bigEndian: base.loadUnaligned(as: UInt64.self)) & ~0xFF | 8
    }
    let size = UInt64(truncatingIfNeeded: count)
    if count >= 4 {
      // Two loads that overlap: the shared bytes fall on the same place.
      let first = UInt64(UInt32(bigEndian: base.loadUnaligned(as: UInt32.self)))
      let last = UInt64(
        UInt32(bigEndian: base.loadUnaligned(fromByteOffset: count &- 4, as: UInt32.self)))
      return first &<< 32 | last &<< (64 &- 8 &* size) | size
    }
    let middle = size &>> 1
    let first = UInt64(base.load(as: UInt8.self))
    let second = UInt64(base.load(fromByteOffset: count &>> 1, as: UInt8.self))
    let last = UInt64(base.load(fromByteOffset: count &- 1, as: UInt8.self))
    return first &<< 56 | second &<< (56 &- 8 &* middle) | last &<< (64 &- 8 &* size) | size
  }

  /// Whether the head holds the whole key (at most 7 bytes long).
  @inlinable @inline(__always)
  public static func isWhole(_ head: UInt64) -> Bool { head & 0xFF < 8 }

  /// The length of the key in bytes, or 8 for every key of 8 bytes or more.
  @inlinable @inline(__always)
  public static func length(_ head: UInt64) -> Int { Int(min(head & 0xFF, 8)) }

  /// Whether ``ofBytes(_:)`` can have made this head: length at most 8, nothing behind a shorter key.
  ///
  /// For checking what was read from a medium.
  @inlinable
  public static func isValid(_ head: UInt64) -> Bool {
    let size = head & 0xFF
    if size >= 7 { return size <= 8 }
    return head & (~0xFF &>> (8 &* size) & ~0xFF) == 0
  }

  /// Calls `body` with the bytes of the key that stands in `head`: the inverse of ``ofBytes(_:)``.
  ///
  /// For a key that is not whole (``isWhole(_:)``) these are its first 7 bytes only.
  /// The buffer is valid during the call.
  @inlinable @inline(__always)
  public static func withBytes<R: ~Copyable, E: Error>(
    _ head: UInt64, _ body: (UnsafeRawBufferPointer) throws(E) -> R
  ) throws(E) -> R {
    let count = min(length(head), wholeLimit)
    return try withUnsafeBytes(of: head.bigEndian) { (raw) throws(E) -> R in
      try body(UnsafeRawBufferPointer(start: raw.baseAddress, count: count))
    }
  }
}
