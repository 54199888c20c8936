import CNVM

/// Where a journal stands in its file, and how its parts are read and written. Holds no state: any number may look
/// at one journal.
struct JournalArea: Sendable {
  let file: any JournalFile
  let offset: Int
  let size: Int
  let uuid: RegionUUID
  let path: String
  /// Words that a record may name: the payload.
  let words: Range<Int>

  /// The same for who writes the journal: the file may have grown since it was opened.
  var growingWords: Range<Int> { words.lowerBound..<Int(SuperblockLayout.largestSize) / 8 }

  init(_ file: any JournalFile, _ superblock: Superblock, path: String) {
    self.file = file
    offset = Int(superblock.journalOffset)
    size = Int(superblock.journalSize)
    uuid = superblock.uuid
    self.path = path
    words = Int(superblock.payload) / 8..<Int(superblock.size) / 8
  }

  var ringSize: Int { size - JournalLayout.ringOffset }
  private var ring: Int { offset + JournalLayout.ringOffset }

  func error(_ what: String, _ result: Int32) -> NVMError {
    NVMError(
      code: .ioFailure,
      message: "\(what) failed. Changes acknowledged before are safe; the last ones may or may not be there. "
        + "Close the file, see to the disk and open it again.", path: path, offset: UInt64(offset),
      errno: -result)
  }

  // MARK: Header

  /// The header that holds, and how many of its copies are valid.
  func readHeader() throws(NVMError) -> (header: JournalHeader?, valid: Int) {
    var best: JournalHeader?
    var valid = 0
    for copy in 0..<2 {
      var words = [UInt64](repeating: 0, count: JournalLayout.headerSize / 8)
      let result = words.withUnsafeMutableBytes {
        file.read($0, at: offset + copy * JournalLayout.headerStride)
      }
      if result < 0 { throw error("Reading the journal", result) }
      guard let header = JournalHeader(words, uuid) else { continue }
      valid += 1
      if best == nil || header.sequence > best!.sequence { best = header }
    }
    return (best, valid)
  }

  /// Writes both copies, the one that does not hold first, each durable before the other is touched. The header has
  /// the sequence of the first.
  func write(_ header: inout JournalHeader) throws(NVMError) {
    for _ in 0..<2 {
      header.sequence += 1
      let copy = Int(header.sequence & 1)
      let result = header.encoded(uuid).withUnsafeBytes {
        file.writeDurably($0, at: offset + copy * JournalLayout.headerStride)
      }
      if result < 0 { throw error("Writing the journal's header", result) }
    }
  }

  // MARK: Ring

  /// The parts of the ring that `count` bytes at a position lie in.
  private func forEachPart(
    _ position: UInt64, _ count: Int, _ body: (_ at: Int, _ range: Range<Int>) -> Int32
  ) -> Int32 {
    let first = Int(position % UInt64(ringSize))
    let head = min(count, ringSize - first)
    let result = body(ring + first, 0..<head)
    return result < 0 || head == count ? result : body(ring, head..<count)
  }

  func read(_ buffer: UnsafeMutableRawBufferPointer, at position: UInt64) throws(NVMError) {
    let result = forEachPart(position, buffer.count) { at, range in
      file.read(UnsafeMutableRawBufferPointer(rebasing: buffer[range]), at: at)
    }
    if result < 0 { throw error("Reading the journal", result) }
  }

  // A file system keeps for each block whether it was ever written. The first write to a block of a new journal changes
  // that, and then the sync writes the file system's own journal too, and takes half as long again: so where a small
  // batch comes to such blocks, those of the next ones are written before it, at once.
  static let preparation = 256 << 10

  /// Sees to the space from a position on, which no batch stands in. Returns up to where, and 0 or -errno.
  func prepare(_ position: UInt64) -> (end: UInt64, result: Int32) {
    let at = Int(position % UInt64(ringSize))
    let first = (at + 4095) & ~4095
    let end = min(first + Self.preparation, ringSize)
    return (
      position + UInt64(end - at), first < end ? file.prepare(at: ring + first, count: end - first) : 0
    )
  }

  /// Durable on return. 0 or -errno.
  func writeDurably(_ bytes: UnsafeRawBufferPointer, at position: UInt64) -> Int32 {
    forEachPart(position, bytes.count) { at, range in
      file.writeDurably(UnsafeRawBufferPointer(rebasing: bytes[range]), at: at)
    }
  }
}
