import NVMRegion

/// An image on which a region is open: the fast way, without a record.
final class OpenedImage {
  let region: PersistentRegion
  private let medium: DirectMedium?
  private let file: DirectFile?
  private var mirror: UnsafeMutableRawBufferPointer?

  init(_ image: UnsafeRawBufferPointer, model: CrashModel, capacity: Int) throws(NVMError) {
    if model == .journaledFile {
      let file = DirectFile(image, capacity: capacity + model.journalSize)
      region = try PersistentRegion.inMemory(
        file: file, journalSize: nil, size: 0, maximumSize: capacity + model.journalSize,
        uuid: RegionUUID(high: 0, low: 0), options: SimulatedMedium.journal)
      self.file = file
      medium = nil
    } else {
      let medium = DirectMedium()
      region = try PersistentRegion.inMemory(image: image, size: 0, maximumSize: capacity, medium: medium)
      self.medium = medium
      file = nil
    }
  }

  deinit { mirror?.deallocate() }

  /// What a crash now would leave. Valid while this object lives and nothing is written.
  var content: UnsafeRawBufferPointer {
    if let file { return file.content }
    if let mirror { return UnsafeRawBufferPointer(mirror) }
    return UnsafeRawBufferPointer(start: region.baseAddress, count: region.size)
  }

  /// From here on the content outlives the region's mapping.
  func willClose() {
    guard let medium else { return }
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: region.size, alignment: 4096)
    medium.startMirror(buffer.baseAddress!, size: region.size)
    mirror = buffer
  }
}

/// A file in memory, for one thread at a time.
private final class DirectFile: JournalFile, @unchecked Sendable {
  private let bytes: UnsafeMutableRawBufferPointer
  private var size: Int

  init(_ image: UnsafeRawBufferPointer, capacity: Int) {
    bytes = .allocate(byteCount: max(capacity, image.count), alignment: 4096)
    bytes.copyMemory(from: image)
    size = image.count
  }
  deinit { bytes.deallocate() }

  var content: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: bytes[..<size]) }

  func read(_ buffer: UnsafeMutableRawBufferPointer, at offset: Int) -> Int32 {
    guard offset >= 0, offset + buffer.count <= size else { return -5 }
    buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + buffer.count]))
    return 0
  }
  func write(_ source: UnsafeRawBufferPointer, at offset: Int) -> Int32 {
    UnsafeMutableRawBufferPointer(rebasing: bytes[offset..<offset + source.count]).copyMemory(from: source)
    return 0
  }
  func writeDurably(_ source: UnsafeRawBufferPointer, at offset: Int) -> Int32 { write(source, at: offset) }
  func startWriting(at offset: Int, count: Int) {}
  func sync() -> Int32 { 0 }
  func didGrow(to new: Int) {
    // New space reads as zero.
    UnsafeMutableRawBufferPointer(rebasing: bytes[min(size, new)..<new]).initializeMemory(
      as: UInt8.self, repeating: 0)
    size = new
  }
}
