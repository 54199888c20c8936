public import NVMRegion

/// A structure of plain data that is stored as it stands in memory, its padding zeroed.
///
/// ```swift
/// struct Position: DurableStruct {
///   var latitude: Double, longitude: Double
///   var accuracy: Float
/// }
/// ```
///
/// No member is needed. The catalogue records the type's name, size, stride and ``durableVersion``:
/// opening a tree with another layout throws ``NVMError/Code/typeMismatch``. Fields that change their
/// meaning or order and leave the size as it was are not noticed: raise ``durableVersion`` then.
///
/// A structure of at most 8 bytes (its stride) is stored in the slot itself. Byte order is the
/// machine's, which the file records.
///
/// Limits:
/// - Padding is found by reflection. It is not zeroed inside types imported from C, `InlineArray`,
///   `Optional` and other enumerations with payload, nor in code built without reflection metadata: there
///   the bytes of the process's memory reach the medium. Padding of `SIMD3` is data likewise.
/// - A `Bool` other than 0 or 1 on the medium reads as `nil`. Enumerations in fields are not checked:
///   prefer their raw values, which survive a change of cases too.
/// - Pointers and other addresses are bitwise copyable and mean nothing after the process has ended.
public protocol DurableStruct: BitwiseCopyable, DurableValue {
  /// The name recorded in the catalogue: that of the type unless said otherwise. Say it to rename a type.
  static var durableName: String { get }
  /// The caller's version of the layout; 1 unless said otherwise.
  static var durableVersion: UInt32 { get }
}

extension DurableStruct {
  @inlinable public static var durableName: String { String(describing: Self.self) }
  @inlinable public static var durableVersion: UInt32 { 1 }

  /// `"Position{size 20, stride 24, version 1}"`
  @inlinable public static var durableTypeName: String {
    let (size, stride) = (MemoryLayout<Self>.size, MemoryLayout<Self>.stride)
    return "\(durableName){size \(size), stride \(stride), version \(durableVersion)}"
  }

  @inlinable public static var durableValueForm: DurableValueForm {
    MemoryLayout<Self>.stride <= 8 ? .word : .bytes
  }

  @inlinable public var valueWord: UInt64 {
    guard Self.durableValueForm == .word else { return 0 }
    var word: UInt64 = 0
    withUnsafeMutableBytes(of: &word) { $0.storeBytes(of: self, as: Self.self) }
    return word & StructLayout.of(Self.self).pointee.wordMask
  }

  @inlinable public init?(valueWord: UInt64) {
    guard Self.durableValueForm == .word else { return nil }
    let layout = StructLayout.of(Self.self)
    guard valueWord & ~layout.pointee.wordMask == 0 else { return nil }
    let value: Self? = withUnsafeBytes(of: valueWord) { bytes in
      guard let base = bytes.baseAddress, layout.pointee.isReadable(base) else { return nil }
      return base.loadUnaligned(as: Self.self)
    }
    guard let value else { return nil }
    self = value
  }

  @inlinable public func withValueBytes<R: ~Copyable>(
    _ body: (UnsafeRawBufferPointer) throws(NVMError) -> R
  ) throws(NVMError) -> R {
    if Self.durableValueForm == .word { return try withUnsafeBytes(of: valueWord, body) }
    let layout = StructLayout.of(Self.self)
    if layout.pointee.isDense { return try withUnsafeBytes(of: self, body) }
    return try withUnsafeTemporaryAllocation(
      byteCount: MemoryLayout<Self>.stride, alignment: MemoryLayout<Self>.alignment
    ) { (raw) throws(NVMError) -> R in
      if let base = raw.baseAddress {
        base.storeBytes(of: self, as: Self.self)
        layout.pointee.zeroHoles(base)
      }
      return try body(UnsafeRawBufferPointer(start: raw.baseAddress, count: MemoryLayout<Self>.size))
    }
  }

  @inlinable public init?(valueBytes: UnsafeRawBufferPointer) {
    guard Self.durableValueForm == .bytes else {
      guard valueBytes.count == 8 else { return nil }
      self.init(valueWord: valueBytes.loadUnaligned(as: UInt64.self))
      return
    }
    guard valueBytes.count == MemoryLayout<Self>.size, let base = valueBytes.baseAddress,
      StructLayout.of(Self.self).pointee.isReadable(base)
    else { return nil }
    self = base.loadUnaligned(as: Self.self)
  }
}
