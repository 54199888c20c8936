// Components of composite keys. The encoding of a composite is the concatenation of its components':
//
//   fixed width     the component's encoding in its own width, big-endian
//   varying, last   the component's encoding as it is
//   varying, else   each 0x00 becomes 0x00 0xFF, and 0x00 0x00 ends it
//
// The order law carries over: at the first byte where two escaped components differ, either both bytes
// are theirs, or one has ended (0x00 0x00) where the other goes on with 0x00 0xFF or a byte above 0x00.

/// Writing and reading one component of a composite key.
@usableFromInline @frozen enum KeyComponent<Key: DurableKey> {
  /// The bytes that `key` takes as a component.
  @inlinable
  static func encodedCount(_ key: Key, isLast: Bool) -> Int {
    if let width = Key.fixedKeyWidth { return width }
    return key.withKeyBytes { bytes in
      if isLast { return bytes.count }
      var count = bytes.count &+ 2
      for byte in bytes where byte == 0 { count &+= 1 }
      return count
    }
  }

  /// Writes `key`, which takes exactly `encodedCount(key, isLast:)` bytes, and returns that count.
  @inlinable
  static func encode(_ key: Key, isLast: Bool, to target: UnsafeMutableRawPointer) -> Int {
    if Key.durableKeyForm == .word {
      let width = Key.fixedKeyWidth ?? 8
      withUnsafeBytes(of: key.keyHead.bigEndian) {
        target.copyMemory(from: $0.baseAddress! + (8 &- width), byteCount: width)
      }
      return width
    }
    return key.withKeyBytes { bytes in
      precondition(
        Key.fixedKeyWidth == nil || Key.fixedKeyWidth == bytes.count, "a key is not as wide as its type says")
      if Key.fixedKeyWidth != nil || isLast {
        if let base = bytes.baseAddress { target.copyMemory(from: base, byteCount: bytes.count) }
        return bytes.count
      }
      var offset = 0
      for byte in bytes {
        target.storeBytes(of: byte, toByteOffset: offset, as: UInt8.self)
        offset &+= 1
        if byte == 0 {
          target.storeBytes(of: 0xFF, toByteOffset: offset, as: UInt8.self)
          offset &+= 1
        }
      }
      target.storeBytes(of: 0, toByteOffset: offset, as: UInt16.self)
      return offset &+ 2
    }
  }

  /// Reads a component from the front of `bytes` and removes it from there; `nil` when there is none.
  /// The last component takes all that is left.
  @inlinable
  static func decode(_ bytes: inout UnsafeRawBufferPointer, isLast: Bool) -> Key? {
    if let width = Key.fixedKeyWidth {
      guard isLast ? bytes.count == width : bytes.count >= width else { return nil }
      let own = UnsafeRawBufferPointer(rebasing: bytes[..<width])
      bytes = UnsafeRawBufferPointer(rebasing: bytes[width...])
      guard Key.durableKeyForm == .word else { return Key(keyBytes: own) }
      var head: UInt64 = 0
      for byte in own { head = head &<< 8 | UInt64(byte) }
      return Key(keyHead: head)
    }
    if isLast {
      defer { bytes = UnsafeRawBufferPointer(start: nil, count: 0) }
      return Key(keyBytes: bytes)
    }
    return decodeEscaped(&bytes)
  }

  @inlinable
  static func decodeEscaped(_ bytes: inout UnsafeRawBufferPointer) -> Key? {
    // Find the end and count the escapes.
    var end = 0
    var escapes = 0
    while true {
      guard end < bytes.count else { return nil }
      guard bytes[end] == 0 else {
        end &+= 1
        continue
      }
      guard end &+ 1 < bytes.count else { return nil }
      if bytes[end &+ 1] == 0 { break }
      guard bytes[end &+ 1] == 0xFF else { return nil }
      escapes &+= 1
      end &+= 2
    }
    let own = UnsafeRawBufferPointer(rebasing: bytes[..<end])
    bytes = UnsafeRawBufferPointer(rebasing: bytes[(end &+ 2)...])
    if escapes == 0 { return Key(keyBytes: own) }
    let count = own.count &- escapes
    return withUnsafeTemporaryAllocation(byteCount: count, alignment: 8) { plain in
      var source = 0
      for target in 0..<count {
        let byte = own[source]
        plain[target] = byte
        source &+= byte == 0 ? 2 : 1
      }
      return Key(keyBytes: UnsafeRawBufferPointer(plain))
    }
  }

  /// Mixes the encoding of `key` into `hasher`.
  @inlinable
  static func hash(_ key: Key, into hasher: inout Hasher) {
    if Key.durableKeyForm == .word {
      hasher.combine(key.keyHead)
    } else {
      key.withKeyBytes { bytes in
        hasher.combine(bytes.count)
        hasher.combine(bytes: bytes)
      }
    }
  }
}
