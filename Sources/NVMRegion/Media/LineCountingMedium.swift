import CLibpmem
import CNVM
import Glibc

/// The counts of an open region: one of each kind per line, reserved for the largest size the region may reach, so that
/// only touched pages take memory.
///
/// Not atomic: of two threads that write the same line at the same moment one may go uncounted.
package final class WearCounts: @unchecked Sendable {
  private let words: UnsafeMutablePointer<UInt32>
  private let capacity: Int

  /// Where the counts of one file go on from.
  init(bytes: Int, from saved: LineWear?, path: String) throws(NVMError) {
    capacity = (bytes + 63) / 64
    let p = mmap(
      nil, capacity * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    guard let p, p != MAP_FAILED else {
      throw NVMError(
        code: .outOfMemory,
        message: "No address space to count wear. Open the region with a smaller maximum size.", path: path,
        errno: errno)
    }
    words = p.bindMemory(to: UInt32.self, capacity: capacity * 2)
    guard let saved else { return }
    for (i, count) in saved.writes.prefix(capacity).enumerated() { words[2 * i] = count }
    for (i, count) in saved.allocations.prefix(capacity).enumerated() { words[2 * i + 1] = count }
  }
  deinit { munmap(words, capacity * 8) }

  private func count(_ offset: Int, _ bytes: Int, _ kind: Int) {
    guard bytes > 0 else { return }
    for line in offset / 64...min((offset + bytes - 1) / 64, capacity - 1) {
      let p = words + 2 * line + kind
      nvm_store32_relaxed(p, nvm_load32_relaxed(p) &+ 1)
    }
  }
  func countWrite(_ offset: Int, _ bytes: Int) { count(offset, bytes, 0) }
  /// A heap hands out a block.
  package func countAllocation(_ offset: UInt64, _ bytes: Int) { count(Int(offset), bytes, 1) }
  /// How often the line at `offset` was allocated.
  package func allocations(at offset: UInt64) -> UInt32 {
    let line = Int(offset / 64)
    return line < capacity ? nvm_load32_relaxed(words + 2 * line + 1) : 0
  }

  func snapshot(lines: Int) -> LineWear {
    let lines = min(lines, capacity)
    return LineWear(
      writes: (0..<lines).map { nvm_load32_relaxed(words + 2 * $0) },
      allocations: (0..<lines).map { nvm_load32_relaxed(words + 2 * $0 + 1) })
  }
}

/// Counts the write-backs of each line and hands the primitive to the medium below; where there is none, drives cache
/// lines itself. With it the region takes its mediated way, so that nothing is in any path where wear is not counted.
package final class LineCountingMedium: RegionMedium, @unchecked Sendable {
  private let below: (any RegionMedium)?
  package let counts: WearCounts
  /// Set once, before any primitive.
  private var base: UnsafeMutableRawPointer

  init(_ below: (any RegionMedium)?, base: UnsafeMutableRawPointer, counts: WearCounts) {
    self.below = below
    self.base = base
    self.counts = counts
  }
  /// For regions in memory, with counts from 0.
  package convenience init(maximumSize: Int) throws(NVMError) {
    self.init(
      nil, base: UnsafeMutableRawPointer(bitPattern: 64)!,
      counts: try WearCounts(bytes: maximumSize, from: nil, path: "(memory)"))
  }

  package func attach(base: UnsafeMutableRawPointer, path: String) {
    self.base = base
    below?.attach(base: base, path: path)
  }
  package func store(_ word: UInt64, at p: UnsafeMutableRawPointer) {
    if let below { below.store(word, at: p) } else { nvm_store_release(p, word) }
  }
  package func storeNontemporal(_ word: UInt64, at p: UnsafeMutableRawPointer) {
    counts.countWrite(p - base, 8)
    if let below { below.storeNontemporal(word, at: p) } else { nvm_store_nontemporal(p, word) }
  }
  package func write(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    guard let from = source.baseAddress else { return }
    if let below { below.write(source, at: p) } else { p.copyMemory(from: from, byteCount: source.count) }
  }
  package func writeNontemporal(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    guard let from = source.baseAddress else { return }
    counts.countWrite(p - base, source.count)
    if let below {
      below.writeNontemporal(source, at: p)
    } else {
      pmem_memcpy(p, from, source.count, UInt32(PMEM_F_MEM_NONTEMPORAL | PMEM_F_MEM_NODRAIN))
    }
  }
  package func fill(_ byte: UInt8, count: Int, at p: UnsafeMutableRawPointer) {
    if let below { below.fill(byte, count: count, at: p) } else { memset(p, Int32(byte), count) }
  }
  package func flush(_ p: UnsafeMutableRawPointer, count: Int) {
    counts.countWrite(p - base, count)
    if let below { below.flush(p, count: count) } else { nvm_flush_range(p, count) }
  }
  package func flush(line p: UnsafeMutableRawPointer, words mask: UInt8) {
    counts.countWrite(p - base, 64)
    if let below { below.flush(line: p, words: mask) } else { nvm_flush_line(p) }
  }
  package var journal: JournaledFileMedium? { below?.journal }
  package func writeHeader(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(NVMError) -> Bool {
    guard try below?.writeHeader(bytes, at: offset) == true else { return false }
    counts.countWrite(offset, bytes.count)
    return true
  }
  package func close(isClean: Bool) throws(NVMError) { try below?.close(isClean: isClean) }
  package func order() throws(NVMError) { if let below { try below.order() } else { nvm_store_fence() } }
  package func fence() throws(NVMError) { if let below { try below.fence() } else { nvm_store_fence() } }
  package func sync(_ fd: Int32) -> Int32 { below?.sync(fd) ?? SystemCall.sync(fd) }
  package func didGrow(to size: Int) { below?.didGrow(to: size) }
  package func willClose() { below?.willClose() }
}
