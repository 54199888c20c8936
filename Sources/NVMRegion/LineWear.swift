import CNVM
import Glibc

/// How often each 64-byte line of a region was written back and how often it was allocated, over the life of the file as
/// far as it was counted (``RegionOptions/countsWear``).
public struct LineWear: Sendable, Equatable {
  /// Write-backs of the line at offset 64 × index, the region's own lines included.
  public var writes: [UInt32]
  /// How often a heap handed the line out as part of a block.
  public var allocations: [UInt32]

  /// What the counts of some lines say about how even the wear is. Lines with a count of 0 are not in use and left out.
  public struct Figures: Sendable, Equatable {
    /// Lines in use.
    public var lines = 0
    public var total: UInt64 = 0
    public var maximum: UInt32 = 0
    /// Where the line with most stands.
    public var hottest: Offset = .null
    /// Standard deviation divided by the mean.
    public var variation = 0.0

    /// Of the lines in use.
    public var mean: Double { lines == 0 ? 0 : Double(total) / Double(lines) }
    /// 1 where all lines wear alike.
    public var imbalance: Double { lines == 0 ? 0 : Double(maximum) / mean }
  }

  /// - Parameter isIncluded: which lines count, by offset.
  /// - Complexity: O(lines).
  public static func figures(_ counts: [UInt32], where isIncluded: (Offset) -> Bool = { _ in true })
    -> Figures
  {
    var figures = Figures()
    var squares = 0.0
    for (i, count) in counts.enumerated() where count > 0 && isIncluded(Offset(i * 64)) {
      figures.lines += 1
      figures.total += UInt64(count)
      squares += Double(count) * Double(count)
      if count > figures.maximum {
        figures.maximum = count
        figures.hottest = Offset(i * 64)
      }
    }
    if figures.lines > 0 {
      let mean = figures.mean
      figures.variation = max(0, squares / Double(figures.lines) - mean * mean).squareRoot() / mean
    }
    return figures
  }

  // MARK: The file

  /// Reads what was saved beside a region; `nil` where there is nothing, or nothing that verifies.
  /// - Parameter size: of the region, which has no more lines than that.
  static func saved(beside path: String, uuid: RegionUUID, size: Int) -> LineWear? {
    // Whatever stands there: to open a pipe would wait for somebody to write to it.
    let fd = SystemCall.open(path + WearFileLayout.suffix, O_RDONLY | O_NONBLOCK)
    guard fd >= 0 else { return nil }
    guard let file = fdopen(fd, "r") else {
      Glibc.close(fd)
      return nil
    }
    defer { fclose(file) }
    var header = [UInt8](repeating: 0, count: WearFileLayout.headerSize)
    guard fread(&header, 1, header.count, file) == header.count else { return nil }
    let fields = header.withUnsafeBytes { b in
      (
        magic: b.load(as: UInt64.self), high: b.load(fromByteOffset: 8, as: UInt64.self),
        low: b.load(fromByteOffset: 16, as: UInt64.self), lines: b.load(fromByteOffset: 24, as: UInt64.self),
        crc: b.load(fromByteOffset: 32, as: UInt32.self)
      )
    }
    var info = stat()
    guard fields.magic == WearFileLayout.magic, fields.high == uuid.high, fields.low == uuid.low,
      fields.lines <= UInt64(size / 64), fstat(fileno(file), &info) == 0,
      Int(info.st_size) == WearFileLayout.headerSize + Int(fields.lines) * 8
    else { return nil }
    let count = Int(fields.lines)
    var wear = LineWear(writes: [], allocations: [])
    for field in [\LineWear.writes, \LineWear.allocations] {
      wear[keyPath: field] = [UInt32](unsafeUninitializedCapacity: count) { buffer, filled in
        filled = fread(buffer.baseAddress, 4, count, file)
      }
      guard wear[keyPath: field].count == count else { return nil }
    }
    return checksum(header, wear.writes, wear.allocations) == fields.crc ? wear : nil
  }

  private static func checksum(_ header: [UInt8], _ writes: [UInt32], _ allocations: [UInt32]) -> UInt32 {
    var crc = nvm_crc32c(0, header, 32)
    for counts in [writes, allocations] {
      crc = counts.withUnsafeBytes { nvm_crc32c(crc, $0.baseAddress, $0.count) }
    }
    return crc
  }

  /// Saves it beside a region. `false` when the disk would not have it; an earlier one is then still there.
  @discardableResult
  func save(beside path: String, uuid: RegionUUID) -> Bool {
    var header = [UInt8](repeating: 0, count: WearFileLayout.headerSize)
    header.withUnsafeMutableBytes { b in
      b.storeBytes(of: WearFileLayout.magic, as: UInt64.self)
      b.storeBytes(of: uuid.high, toByteOffset: 8, as: UInt64.self)
      b.storeBytes(of: uuid.low, toByteOffset: 16, as: UInt64.self)
      b.storeBytes(of: UInt64(writes.count), toByteOffset: 24, as: UInt64.self)
    }
    let crc = Self.checksum(header, writes, allocations)
    header.withUnsafeMutableBytes { $0.storeBytes(of: crc, toByteOffset: 32, as: UInt32.self) }
    let temporary = "\(path)\(WearFileLayout.suffix)-new-\(getpid())"
    guard let file = fopen(temporary, "wxe") else { return false }
    var isWhole = fwrite(header, 1, header.count, file) == header.count
    isWhole = fwrite(writes, 4, writes.count, file) == writes.count && isWhole
    isWhole = fwrite(allocations, 4, allocations.count, file) == allocations.count && isWhole
    isWhole = fflush(file) == 0 && fsync(fileno(file)) == 0 && isWhole
    fclose(file)
    if isWhole, rename(temporary, path + WearFileLayout.suffix) == 0 { return true }
    unlink(temporary)
    return false
  }
}

extension PersistentRegion {
  /// The counts so far where this opening counts, else those saved at the last close that counted; `nil` where there are
  /// none. Approximate while other threads are at work. O(lines).
  public var wear: LineWear? {
    wearCounts?.snapshot(lines: size / 64) ?? LineWear.saved(beside: place, uuid: uuid, size: size)
  }
}
