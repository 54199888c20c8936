import CNVM
import Glibc

/// A key as the engine sees it: the head, and the full encoded bytes where they do not fit in it.
///
/// The order of keys: by head; heads of keys that are longer than 7 bytes may tie, and then the bytes decide.
@frozen @usableFromInline struct SearchKey {
  @usableFromInline var head: UInt64
  /// The whole key, `nil` where the head is the whole key. Valid for the duration of the call.
  @usableFromInline var bytes: UnsafeRawPointer?
  @usableFromInline var count: Int

  @inlinable @inline(__always)
  init(head: UInt64) {
    self.head = head
    bytes = nil
    count = 0
  }
  @inlinable @inline(__always)
  init(head: UInt64, bytes: UnsafeRawPointer, count: Int) {
    self.head = head
    self.bytes = bytes
    self.count = count
  }

  /// One byte that equal keys share.
  @inline(__always) var fingerprint: UInt8 {
    if let bytes { return nvm_fingerprint(nvm_hash_bytes(0, bytes, count)) }
    return nvm_fingerprint(head)
  }

  /// Negative, zero or positive as `self` sorts before, with or behind `other`.
  @inline(__always) func compare(_ other: SearchKey) -> Int {
    if head != other.head { return head < other.head ? -1 : 1 }
    guard let a = bytes, let b = other.bytes else { return 0 }
    return Self.compareBytes(a, count, b, other.count)
  }

  @inline(never)
  static func compareBytes(_ a: UnsafeRawPointer, _ n: Int, _ b: UnsafeRawPointer, _ m: Int) -> Int {
    let c = memcmp(a, b, min(n, m))
    return c != 0 ? Int(c) : n - m
  }
}

/// A place in key order: on a key, just behind it, or at either end.
@frozen @usableFromInline enum Bound {
  case start
  case end
  case before(SearchKey)
  case after(SearchKey)

  @inline(__always) var key: SearchKey? {
    switch self {
    case .start, .end: nil
    case .before(let key), .after(let key): key
    }
  }
}
