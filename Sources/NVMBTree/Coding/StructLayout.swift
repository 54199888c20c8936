internal import CNVM
internal import NVMRegion
@_spi(Reflection) internal import Swift

// Where the holes of a structure are. A copy of a structure leaves its holes with whatever the memory
// held before: they have to be zeroed on the way to the medium, so that equal values are equal bytes and
// no secret of the process gets into a file.
//
// Fields are found by the runtime's reflection, once per type. What it cannot see counts as data and is
// never zeroed, so that a wrong answer can only leave a hole as it is:
//   - types imported from C (bit fields and unions are invisible): no holes are looked for inside them
//   - enumerations with payload, Optional, InlineArray: data as a whole
//   - code built with -disable-reflection-metadata: no holes are found at all

/// The holes of a `BitwiseCopyable` type. Lives for ever; one per type.
@usableFromInline @frozen struct StructLayout: @unchecked Sendable {
  /// Whether every byte belongs to a field.
  @usableFromInline let isDense: Bool
  /// For types of at most 8 bytes: ones where the word, as it stands in memory, has data.
  @usableFromInline let wordMask: UInt64
  /// The holes in ascending order.
  @usableFromInline let holes: UnsafeBufferPointer<Range<Int>>
  /// Where bytes stand that must be 0 or 1 to be read as `Bool`.
  @usableFromInline let bools: UnsafeBufferPointer<Int>

  /// The layout of `type`: computed the first time, then found in a few nanoseconds without a lock.
  @usableFromInline
  static func of<T: BitwiseCopyable>(_ type: T.Type) -> UnsafePointer<StructLayout> {
    StructLayoutCache.layout(of: type)
  }

  fileprivate init(examining type: Any.Type, size: Int) {
    var survey = FieldSurvey(size: size)
    survey.visit(type, at: 0, size: size)
    let data = survey.isData
    var holes: [Range<Int>] = []
    var offset = 0
    while offset < size {
      var end = offset
      while end < size, data[end] == data[offset] { end += 1 }
      if !data[offset] { holes.append(offset..<end) }
      offset = end
    }
    var mask: UInt64 = 0
    if size <= 8 {
      withUnsafeMutableBytes(of: &mask) { bytes in
        for index in 0..<size where data[index] { bytes[index] = 0xFF }
      }
    }
    isDense = holes.isEmpty
    wordMask = mask
    self.holes = immortal(holes)
    bools = immortal(survey.bools)
  }

  /// Zeroes the holes of a value that stands at `value`.
  @inlinable
  func zeroHoles(_ value: UnsafeMutableRawPointer) {
    for hole in holes {
      (value + hole.lowerBound).initializeMemory(as: UInt8.self, repeating: 0, count: hole.count)
    }
  }

  /// Whether the bytes at `value` can be read as the type: every `Bool` in it is 0 or 1.
  @inlinable
  func isReadable(_ value: UnsafeRawPointer) -> Bool {
    for offset in bools where value.load(fromByteOffset: offset, as: UInt8.self) > 1 { return false }
    return true
  }
}

private func immortal<T>(_ elements: [T]) -> UnsafeBufferPointer<T> {
  let copy = UnsafeMutableBufferPointer<T>.allocate(capacity: elements.count)
  _ = copy.initialize(from: elements)
  return UnsafeBufferPointer(copy)
}

/// Walks the fields of a type and notes the bytes that they cover.
private struct FieldSurvey {
  var isData: [Bool]
  var bools: [Int] = []

  init(size: Int) { isData = Array(repeating: false, count: size) }

  private mutating func note(_ range: Range<Int>) {
    for index in range.clamped(to: 0..<isData.count) { isData[index] = true }
  }

  mutating func visit(_ type: Any.Type, at offset: Int, size: Int) {
    if type == Bool.self { bools.append(offset) }
    #if arch(x86_64)
      if type == Float80.self { return note(offset..<(offset + 10)) }
    #endif
    let fields = Self.fields(of: type, size: size)
    if fields.isEmpty { return note(offset..<(offset + size)) }
    for field in fields { visit(field.type, at: offset + field.offset, size: field.size) }
  }

  /// The fields of a structure or tuple; none when it is something else or cannot be seen through.
  private static func fields(of type: Any.Type, size: Int) -> [(type: Any.Type, offset: Int, size: Int)] {
    // Mangled names of types imported from C begin so.
    if _mangledTypeName(type)?.hasPrefix("So") ?? true { return [] }
    var fields: [(type: Any.Type, offset: Int, size: Int)] = []
    var isClear = true
    _ = _forEachField(of: type) { _, offset, fieldType, _ in
      let fieldSize = _openExistential(fieldType, do: sizeOf)
      // A field whose type is not to be had is reported as Void.
      if fieldType == Void.self || offset < 0 || offset + fieldSize > size { isClear = false }
      fields.append((fieldType, offset, fieldSize))
      return isClear
    }
    return isClear ? fields : []
  }
}

private func sizeOf<T>(_ type: T.Type) -> Int { MemoryLayout<T>.size }

/// Layouts by type: an open-addressed table of words that are written once (layout first, then the key),
/// so that readers need no lock; what finds no place there is kept in a dictionary.
private enum StructLayoutCache {
  private static let slots = 512
  private static let probes = 8
  // Pairs (type, layout). Never freed; only touched atomically.
  nonisolated(unsafe) private static let table: UnsafeMutablePointer<UInt64> = {
    let table = UnsafeMutablePointer<UInt64>.allocate(capacity: 2 * (slots + probes))
    table.initialize(repeating: 0, count: 2 * (slots + probes))
    return table
  }()
  private static let all = Lock<[UInt64: UInt]>([:])

  @inline(__always)
  static func layout<T: BitwiseCopyable>(of type: T.Type) -> UnsafePointer<StructLayout> {
    let id = UInt64(UInt(bitPattern: ObjectIdentifier(type)))
    let start = Int(truncatingIfNeeded: (id &* 0x9E37_79B9_7F4A_7C15) &>> 55)
    var slot = table + (2 &* start)
    let end = slot + (2 &* probes)
    while slot < end {
      let key = nvm_load_acquire(slot)
      if key == id { return pointer(UInt(nvm_load_relaxed(slot + 1))) }
      if key == 0 { break }
      slot += 2
    }
    return addLayout(of: type, id: id, start: start)
  }

  @inline(never)
  private static func addLayout<T: BitwiseCopyable>(
    of type: T.Type, id: UInt64, start: Int
  ) -> UnsafePointer<StructLayout> {
    all.withLock { all in
      if let known = all[id] { return pointer(known) }
      let layout = UnsafeMutablePointer<StructLayout>.allocate(capacity: 1)
      layout.initialize(to: StructLayout(examining: type, size: MemoryLayout<T>.size))
      let address = UInt(bitPattern: layout)
      all[id] = address
      for index in start..<(start + probes) where nvm_load_relaxed(table + 2 * index) == 0 {
        nvm_store_relaxed(table + (2 * index + 1), UInt64(address))
        nvm_store_release(table + 2 * index, id)
        break
      }
      return UnsafePointer(layout)
    }
  }

  private static func pointer(_ address: UInt) -> UnsafePointer<StructLayout> {
    UnsafePointer(bitPattern: address).unsafelyUnwrapped
  }
}
