import CNVM
public import NVMRegion

extension PersistentHeap {
  /// Makes an empty heap in a region whose payload is blank. Durable on return; a crash before leaves no
  /// heap.
  ///
  /// Fits `initialize` of ``PersistentRegion/create(at:size:options:initialize:)``, so that a file appears
  /// with its heap or not at all.
  ///
  /// - Throws: `.alreadyExists` where the region holds a heap, `.outOfSpace` where it is too small,
  ///   `.invalidArgument`, and as ``PersistentRegion/checkWritable()``.
  public static func format(
    _ region: PersistentRegion, options: HeapOptions = HeapOptions()
  ) throws(NVMError) -> PersistentHeap {
    try region.checkWritable()
    let g = options.geometry
    guard g.isValid else {
      throw NVMError(
        code: .invalidArgument, message: "The heap's geometry is out of range.", path: region.path)
    }
    let start = region.payloadStart
    let unit = 1 << g.unitShift
    let rootsOffset = start + HeapHeaderLayout.areaSize
    let lanesOffset = rootsOffset + g.rootCount * RootLine.size
    let areaEnd = lanesOffset + g.laneCount * g.laneSize
    let systemUnits = (areaEnd.bytes + unit - 1) / unit
    let unitCount = min(region.size / unit, ExtentEntry.maximumLength)
    let tableUnits = (max(2 * unitCount, 64) * ExtentEntry.size + unit - 1) / unit
    guard systemUnits + tableUnits < unitCount else {
      throw NVMError(
        code: .outOfSpace,
        message: "A region of \(region.size) bytes is too small for a heap: make it at least "
          + "\((systemUnits + tableUnits + 1) * unit + unit / 4) bytes.", path: region.path)
    }
    let tableOffset = Offset(systemUnits * unit)
    for copy in 0..<2 {
      let at = region.pointer(to: start + copy * HeapHeaderLayout.copyStride)
      let bytes = UnsafeRawBufferPointer(start: at, count: HeapHeaderLayout.size)
      if case .valid = HeapHeader.decode(bytes, region: region) {
        throw NVMError(
          code: .alreadyExists, message: "The region holds a heap already. Open it.", path: region.path)
      }
    }
    let capacity = tableUnits * unit / ExtentEntry.size
    // All of the heap's own area, whatever was there; then the heads; the header last.
    region.fill(start, count: areaEnd - start)
    region.flush(start, count: areaEnd - start)
    region.fill(tableOffset, count: capacity * ExtentEntry.size)
    region.flush(tableOffset, count: capacity * ExtentEntry.size)
    let check = HeaderCheck(region.uuid)
    func head(_ u: Int, _ kind: ExtentKind, _ n: Int) {
      let at = tableOffset + u * ExtentEntry.size
      region.store(check.extent(kind, length: n, at: UInt64(u * unit)), at: at)
      region.flush(at, count: 8)
    }
    head(0, .system, systemUnits)
    head(systemUnits, .table, tableUnits)
    head(systemUnits + tableUnits, .free, unitCount - systemUnits - tableUnits)
    try region.order()
    var header = HeapHeader(
      unitShift: g.unitShift, uuid: region.uuid, unitCount: unitCount, tableOffset: tableOffset,
      tableCapacity: capacity, rootsOffset: rootsOffset, rootCount: g.rootCount, lanesOffset: lanesOffset,
      laneCount: g.laneCount, laneSize: g.laneSize)
    try writeHeader(header, copy: 0, region)
    header.sequence = 2
    try writeHeader(header, copy: 1, region)
    try region.acknowledge()
    return try open(region, options: options)
  }
}
