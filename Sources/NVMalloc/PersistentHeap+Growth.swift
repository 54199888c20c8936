import CNVM
import Glibc
import NVMRegion

// Growth in place. Under the extent lock.
//
// Where the table has room:
//
//     region grows → entry[end] := free(new units), flush, order → heap header, both copies (commit: the
//     first)
//
// Where it has not: the region grows → a table of at least twice the capacity is written whole into the new
// space, with itself and the rest of that space as heads; flush, order → heap header (commit: new table and
// new units at once) → the old table's head := free. A crash before the last step leaves a table that the
// header does not name: opening frees it. Records of lanes name places in the table, so no publication is
// under way meanwhile (the gate).
extension PersistentHeap {
  /// Adds at least `count` units in one piece at the end.
  func grow(_ space: inout ExtentSpace, _ count: Int) throws(NVMError) {
    let old = space.header.unitCount
    let most = map.capacity
    let capacity = space.header.tableCapacity
    let wish = max(count, options.growthIncrement >> unitShift, old / 8)
    // Units of a new table, 0 where the old one suffices.
    var table = 0
    var limit = min(most, capacity)
    if old + count > capacity {
      table = tableUnits(min(max(2 * capacity, 2 * (old + count)), most))
      limit = min(most, table << unitShift / ExtentEntry.size)
    }
    let least = old + table + count
    guard least <= limit else {
      throw NVMError(
        code: .outOfSpace,
        message: "The heap may not grow to \(least << unitShift) bytes: its limit is \(most << unitShift).",
        path: region.path)
    }
    let target = min(old + table + wish, limit)
    do throws(NVMError) {
      try region.grow(toAtLeast: target << unitShift)
    } catch {
      guard [.outOfSpace, .diskFull, .outOfMemory].contains(error.code), least < target else { throw error }
      try region.grow(toAtLeast: least << unitShift)
    }
    // An earlier growth may have been interrupted: the region can be larger than asked for.
    let new = min(region.size >> unitShift, limit)
    if table == 0 {
      try extend(&space, to: new)
    } else {
      try moveTable(&space, to: new, tableUnits: table)
    }
  }

  /// Lets the system map fresh pages in one go instead of one fault each. Pages of an ordinary file it would dirty,
  /// and private ones of a journaled file take memory: not there.
  func populate(_ unit: Int, _ count: Int) {
    guard [.emulated, .persistentMemory, .autoFlushedPersistentMemory].contains(region.media) else { return }
    // MADV_POPULATE_WRITE; kernels that do not know it refuse, and the pages come one by one. More than this at once
    // would be felt.
    _ = madvise(
      region.pointer(to: Offset(rawValue: start(ofUnit: unit))), min(count << unitShift, 16 << 20), 23)
  }

  /// From here on nobody else writes to the table, or reads it without the extent lock, which the caller has: neither within
  /// the gate nor with the lock of a share of objects.
  func enterAlone() {
    gate.enterAlone()
    for share in shares.allObjects() { lock(of: share).lock() }
  }
  func leaveAlone() {
    for share in shares.allObjects() { lock(of: share).unlock() }
    gate.leaveAlone()
  }

  func tableUnits(_ capacity: Int) -> Int { units(forBytes: capacity * ExtentEntry.size) }

  private func extend(_ space: inout ExtentSpace, to new: Int) throws(NVMError) {
    let old = space.header.unitCount
    region.store(freeWord(old, new - old), at: entry(old))
    region.flush(entry(old), count: 8)
    try region.order()
    try updateHeader(&space) { $0.unitCount = new }
    nvm_store_release(control + Control.unitCount, UInt64(new))
    populate(old, new - old)
    space.runs.insert(old, new - old, limit: new)
    noteGain()
  }

  private func moveTable(_ space: inout ExtentSpace, to new: Int, tableUnits t: Int) throws(NVMError) {
    enterAlone()
    defer { leaveAlone() }
    let old = space.header.unitCount
    let oldTable = space.header.tableOffset
    let oldTableUnits = tableUnits(space.header.tableCapacity)
    let newTable = Offset(rawValue: start(ofUnit: old))
    let newCapacity = t << unitShift / ExtentEntry.size
    let used = old * ExtentEntry.size
    region.writeFlushed(
      UnsafeRawBufferPointer(start: region.pointer(to: oldTable), count: used), at: newTable)
    // What a growth that was interrupted may have left here is no longer wanted.
    region.fill(newTable + used, count: newCapacity * ExtentEntry.size - used)
    region.flush(newTable + used, count: newCapacity * ExtentEntry.size - used)
    let word = check.extent(.table, length: t, at: start(ofUnit: old))
    region.store(word, at: newTable + used)
    region.flush(newTable + used, count: 8)
    if new > old + t {
      let rest = newTable + (old + t) * ExtentEntry.size
      region.store(freeWord(old + t, new - old - t), at: rest)
      region.flush(rest, count: 8)
    }
    try region.order()
    try updateHeader(&space) {
      $0.unitCount = new
      $0.tableOffset = newTable
      $0.tableCapacity = newCapacity
    }
    nvm_store_release(control + Control.tableOffset, newTable.rawValue)
    nvm_store_release(control + Control.unitCount, UInt64(new))
    map.set(old, tag: UnitMap.Tag.other, length: t)
    if new > old + t {
      populate(old + t, new - old - t)
      space.runs.insert(old + t, new - old - t, limit: new)
    }
    let unit = oldTable.bytes >> unitShift
    region.store(freeWord(unit, oldTableUnits), at: entry(unit))
    region.flush(entry(unit), count: 8)
    try region.settle()
    giveBack(&space, unit, oldTableUnits)
    noteGain()
  }

  /// Writes both header copies, the older first.
  func updateHeader(_ space: inout ExtentSpace, _ change: (inout HeapHeader) -> Void) throws(NVMError) {
    for _ in 0..<2 {
      var next = space.header
      change(&next)
      next.sequence = space.header.sequence + 1
      let copy = 1 - space.newestCopy
      try Self.writeHeader(next, copy: copy, region)
      space.header = next
      space.newestCopy = copy
    }
  }

  static func writeHeader(_ header: HeapHeader, copy: Int, _ region: PersistentRegion) throws(NVMError) {
    let at = region.payloadStart + copy * HeapHeaderLayout.copyStride
    header.encoded().withUnsafeBytes { region.write($0, at: at) }
    region.flush(at, count: HeapHeaderLayout.size)
    try region.settle()
  }
}
