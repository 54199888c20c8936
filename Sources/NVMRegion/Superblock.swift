import CNVM

/// The decoded superblock.
struct Superblock: Equatable {
  var compatible: UInt64 = 0
  var readOnlyCompatible: UInt64 = 0
  var incompatible: UInt64 = 0
  var uuid: RegionUUID
  var sequence: UInt64 = 1
  var size: UInt64
  var payload: UInt64
  var media: UInt32
  var isClean = false
  var incarnation: UInt64 = 0
  var journalOffset: UInt64 = 0
  var journalSize: UInt64 = 0

  private typealias F = SuperblockLayout.Field

  /// The 256 bytes of a copy.
  func encoded() -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: SuperblockLayout.size)
    bytes.withUnsafeMutableBytes { b in
      b.storeBytes(of: SuperblockLayout.magic, toByteOffset: F.magic, as: UInt64.self)
      b.storeBytes(of: SuperblockLayout.formatVersion, toByteOffset: F.version, as: UInt32.self)
      b.storeBytes(of: SuperblockLayout.byteOrderMark, toByteOffset: F.byteOrder, as: UInt32.self)
      b.storeBytes(of: compatible, toByteOffset: F.compatible, as: UInt64.self)
      b.storeBytes(of: readOnlyCompatible, toByteOffset: F.readOnlyCompatible, as: UInt64.self)
      b.storeBytes(of: incompatible, toByteOffset: F.incompatible, as: UInt64.self)
      b.storeBytes(of: uuid.high, toByteOffset: F.uuid, as: UInt64.self)
      b.storeBytes(of: uuid.low, toByteOffset: F.uuid + 8, as: UInt64.self)
      b.storeBytes(of: sequence, toByteOffset: F.sequence, as: UInt64.self)
      b.storeBytes(of: size, toByteOffset: F.size, as: UInt64.self)
      b.storeBytes(of: payload, toByteOffset: F.payload, as: UInt64.self)
      b.storeBytes(of: media, toByteOffset: F.media, as: UInt32.self)
      b.storeBytes(of: isClean ? 1 : 0, toByteOffset: F.clean, as: UInt32.self)
      b.storeBytes(of: incarnation, toByteOffset: F.incarnation, as: UInt64.self)
      b.storeBytes(of: journalOffset, toByteOffset: F.journalOffset, as: UInt64.self)
      b.storeBytes(of: journalSize, toByteOffset: F.journalSize, as: UInt64.self)
      let crc = nvm_crc32c(0, b.baseAddress!, SuperblockLayout.checksummed)
      b.storeBytes(of: crc, toByteOffset: F.checksum, as: UInt32.self)
    }
    return bytes
  }

  /// What one copy turned out to be.
  enum Copy {
    case valid(Superblock)
    case foreign
    case foreignByteOrder
    /// With its sequence, where the checksum vouches for it.
    case newer(String, sequence: UInt64?)
    case damaged
  }

  static func decode(_ b: UnsafeRawBufferPointer) -> Copy {
    func u32(_ at: Int) -> UInt32 { b.loadUnaligned(fromByteOffset: at, as: UInt32.self) }
    func u64(_ at: Int) -> UInt64 { b.loadUnaligned(fromByteOffset: at, as: UInt64.self) }
    guard b.count >= SuperblockLayout.size else { return .foreign }
    if u64(F.magic) == SuperblockLayout.magic.byteSwapped { return .foreignByteOrder }
    guard u64(F.magic) == SuperblockLayout.magic else { return .foreign }
    if u32(F.byteOrder) == SuperblockLayout.byteOrderMark.byteSwapped { return .foreignByteOrder }
    let isSound = TrustedChecksum.superblock.accepts(
      u32(F.checksum) == nvm_crc32c(0, b.baseAddress!, SuperblockLayout.checksummed))
    // A newer release may check itself otherwise, so its version is looked at first.
    guard u32(F.version) <= SuperblockLayout.formatVersion else {
      return .newer("format version \(u32(F.version))", sequence: isSound ? u64(F.sequence) : nil)
    }
    guard isSound else { return .damaged }
    let unknown = u64(F.incompatible) & ~SuperblockLayout.knownIncompatible
    guard unknown == 0 else {
      return .newer("incompatible feature mask 0x" + String(unknown, radix: 16), sequence: u64(F.sequence))
    }
    let block = Superblock(
      compatible: u64(F.compatible), readOnlyCompatible: u64(F.readOnlyCompatible),
      incompatible: u64(F.incompatible), uuid: RegionUUID(high: u64(F.uuid), low: u64(F.uuid + 8)),
      sequence: u64(F.sequence), size: u64(F.size), payload: u64(F.payload), media: u32(F.media),
      isClean: u32(F.clean) == 1, incarnation: u64(F.incarnation), journalOffset: u64(F.journalOffset),
      journalSize: u64(F.journalSize))
    // A right checksum does not make a wrong length harmless.
    let page = UInt64(SuperblockLayout.copyStride)
    guard block.size % page == 0, block.payload % page == 0, block.size <= SuperblockLayout.largestSize,
      block.payload >= UInt64(SuperblockLayout.headerSize), block.payload < block.size,
      block.sequence <= SuperblockLayout.largestCount, block.incarnation <= SuperblockLayout.largestCount
    else { return .damaged }
    guard block.hasSoundJournal else { return .damaged }
    return .valid(block)
  }

  var hasJournal: Bool { journalSize != 0 }
  /// Whether the journal may hold changes that are not in their places.
  var isJournalInUse: Bool {
    get { incompatible & SuperblockLayout.journalInUse != 0 }
    set {
      incompatible =
        incompatible & ~SuperblockLayout.journalInUse | (newValue ? SuperblockLayout.journalInUse : 0)
    }
  }
  private var hasSoundJournal: Bool {
    if !hasJournal { return !isJournalInUse }
    let page = UInt64(SuperblockLayout.copyStride)
    return journalOffset % page == 0 && journalSize % page == 0
      && journalOffset >= UInt64(SuperblockLayout.headerSize)
      && (UInt64(JournalLayout.minimumSize)...UInt64(JournalLayout.maximumSize)).contains(journalSize)
      && journalOffset <= payload && journalSize <= payload - journalOffset
  }

  /// The superblock that holds, of the two copies at the start of a file, and which copy it was.
  static func choose(_ header: UnsafeRawBufferPointer, path: String) throws(NVMError) -> (
    Superblock, copy: Int
  ) {
    let copies = [0, 1].map { (i: Int) -> Copy in
      let start = i * SuperblockLayout.copyStride
      guard header.count >= start + SuperblockLayout.size else { return .foreign }
      return decode(UnsafeRawBufferPointer(rebasing: header[start..<start + SuperblockLayout.size]))
    }
    var best: (Superblock, copy: Int)?
    for (i, copy) in copies.enumerated() {
      guard case .valid(let block) = copy else { continue }
      if let best, best.0.uuid != block.uuid {
        throw NVMError(
          code: .corrupt,
          message:
            "The superblock copies belong to two different files, so it is not known what the rest is. "
            + "Restore the file from a backup.", path: path, offset: 0)
      }
      if best == nil || block.sequence > best!.0.sequence { best = (block, i) }
    }
    // A newer release's copy that holds forbids to go back to the older one beside it.
    if let best {
      let isOverruled = copies.contains {
        if case .newer(_, let sequence?) = $0 { sequence > best.0.sequence } else { false }
      }
      if !isOverruled { return best }
    }
    for copy in copies {
      switch copy {
      case .newer(let what, _):
        throw NVMError(
          code: .newerFormat,
          message: "The file was written by a newer release (\(what)). Open it with that release or later.",
          path: path)
      case .foreignByteOrder:
        throw NVMError(
          code: .foreignByteOrder,
          message: "The file was written on a machine of the other byte order and can be opened only there.",
          path: path)
      default: continue
      }
    }
    if copies.contains(where: { if case .damaged = $0 { true } else { false } }) {
      throw NVMError(
        code: .corrupt,
        message: "Both superblock copies are damaged, so nothing in the file can be trusted. "
          + "Restore it from a backup.",
        path: path, offset: 0)
    }
    if header.count < SuperblockLayout.size, header.count >= 8,
      header.loadUnaligned(as: UInt64.self) == SuperblockLayout.magic
    {
      throw NVMError(
        code: .truncated,
        message:
          "The file has only \(header.count) bytes: the rest is missing. Restore it from a backup; it was "
          + "left as it is.", path: path)
    }
    throw NVMError(
      code: .notARegion,
      message: "This is not a swift-nvm file. Check the path; the file was left as it is.", path: path)
  }
}

/// Identifies a region for life; salts the checksums of what lies in it.
@frozen public struct RegionUUID: Hashable, Sendable, CustomStringConvertible {
  public let high: UInt64
  public let low: UInt64

  @inlinable public init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }
  /// A random one (version 4).
  public static func random() -> RegionUUID {
    var generator = SystemRandomNumberGenerator()
    let high = generator.next() & 0xFFFF_FFFF_FFFF_0FFF | 0x4000
    let low = generator.next() & 0x3FFF_FFFF_FFFF_FFFF | 0x8000_0000_0000_0000
    return RegionUUID(high: high, low: low)
  }
  public var description: String {
    func hex(_ value: UInt64) -> String {
      let digits = String(value, radix: 16)
      return String(repeating: "0", count: 16 - digits.count) + digits
    }
    let h = hex(high)
    let l = hex(low)
    return "\(h.prefix(8))-\(h.dropFirst(8).prefix(4))-\(h.suffix(4))-\(l.prefix(4))-\(l.dropFirst(4))"
  }
}
