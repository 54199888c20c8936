import NVMRegion
import NVMalloc
import XCTest

/// Memory that remembers, line by line, what is certain to survive: a line's content at its last flush that a
/// fence followed. One thread only.
final class CrashMedium: RegionMedium, @unchecked Sendable {
  private var base: UnsafeMutableRawPointer!
  private(set) var shadow: [UInt8] = []
  private var pending: [Int: [UInt8]] = [:]
  private var dirty: Set<Int> = []
  /// Called before each fence and order with the work that the crash images are made by.
  var beforeFence: ((CrashMedium) -> Void)?
  /// Store operations since the start, for tests that stop at the n-th.
  private(set) var steps = 0

  func attach(base: UnsafeMutableRawPointer, path: String) { self.base = base }
  func didGrow(to size: Int) {
    if shadow.count < size { shadow += [UInt8](repeating: 0, count: size - shadow.count) }
  }

  private func touch(_ p: UnsafeMutableRawPointer, _ count: Int) {
    guard count > 0 else { return }
    let start = p - base
    if shadow.count < start + count { didGrow(to: (start + count + 4095) & ~4095) }
    for line in start / 64...(start + count - 1) / 64 { dirty.insert(line) }
    steps += 1
  }
  func store(_ word: UInt64, at p: UnsafeMutableRawPointer) {
    p.storeBytes(of: word, as: UInt64.self)
    touch(p, 8)
  }
  func storeNontemporal(_ word: UInt64, at p: UnsafeMutableRawPointer) {
    store(word, at: p)
    flush(p, count: 8)
  }
  func write(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    p.copyMemory(from: source.baseAddress!, byteCount: source.count)
    touch(p, source.count)
  }
  func writeNontemporal(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    write(source, at: p)
    flush(p, count: source.count)
  }
  func fill(_ byte: UInt8, count: Int, at p: UnsafeMutableRawPointer) {
    p.initializeMemory(as: UInt8.self, repeating: byte, count: count)
    touch(p, count)
  }
  func flush(_ p: UnsafeMutableRawPointer, count: Int) {
    guard count > 0 else { return }
    let start = p - base
    for line in start / 64...(start + count - 1) / 64 where dirty.contains(line) {
      pending[line] = Array(UnsafeRawBufferPointer(start: base + line * 64, count: 64))
    }
  }
  func order() throws(NVMError) { settle() }
  func fence() throws(NVMError) { settle() }
  private func settle() {
    beforeFence?(self)
    for (line, bytes) in pending {
      shadow.replaceSubrange(line * 64..<line * 64 + 64, with: bytes)
      if bytes == Array(UnsafeRawBufferPointer(start: base + line * 64, count: 64)) { dirty.remove(line) }
    }
    pending.removeAll(keepingCapacity: true)
  }

  /// What a crash now may leave: each dirty line as it is certain to be, or as it is in memory, as `pick` says.
  func image(_ pick: (Int) -> Bool) -> [UInt8] {
    var image = shadow
    for line in dirty.sorted() where pick(line) {
      image.replaceSubrange(
        line * 64..<line * 64 + 64, with: UnsafeRawBufferPointer(start: base + line * 64, count: 64))
    }
    return image
  }
  var dirtyLines: [Int] { dirty.sorted() }

  /// A few images: nothing, everything, each line alone, each line missing, and random ones.
  func images(_ generator: inout SplitMix) -> [[UInt8]] {
    let lines = dirtyLines
    var all = [image { _ in false }, image { _ in true }]
    if lines.count > 1 {
      for line in lines.prefix(12) {
        all.append(image { $0 == line })
        all.append(image { $0 != line })
      }
      for _ in 0..<4 {
        let chosen = Set(lines.filter { _ in Bool.random(using: &generator) })
        all.append(image { chosen.contains($0) })
      }
    }
    return all
  }
}

func openImage(_ image: [UInt8], maximumSize: Int, geometry: HeapGeometry = .tiny) throws -> PersistentHeap {
  try image.withUnsafeBytes { bytes in
    let region = try PersistentRegion.inMemory(
      image: bytes, size: bytes.count, maximumSize: maximumSize, medium: nil)
    return try PersistentHeap.open(region, options: options(geometry))
  }
}
