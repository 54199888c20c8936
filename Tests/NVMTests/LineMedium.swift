import NVM

/// Memory that knows what is certain to survive: each line's content at its last flush that a fence followed. For
/// one thread.
final class LineMedium: RegionMedium, @unchecked Sendable {
  private var base: UnsafeMutableRawPointer!
  private(set) var durable: [UInt8] = []
  private var flushed: [Int: [UInt8]] = [:]
  private var dirty: Set<Int> = []
  /// Called before each fence: the moment at which a crash may leave the most.
  var beforeFence: ((LineMedium) throws -> Void)?
  private(set) var failure: (any Error)?

  func setDurable(_ image: [UInt8]) { durable = image }
  func attach(base: UnsafeMutableRawPointer, path: String) { self.base = base }
  func didGrow(to size: Int) { grow(to: size) }
  private func grow(to size: Int) {
    if durable.count < size { durable += [UInt8](repeating: 0, count: size - durable.count) }
  }
  private func lines(_ p: UnsafeMutableRawPointer, _ count: Int) -> ClosedRange<Int> {
    let start = p - base
    grow(to: (start + count + 4095) & ~4095)
    return start / 64...(start + count - 1) / 64
  }
  private func content(_ line: Int) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(start: base + line * 64, count: 64)
  }

  func store(_ word: UInt64, at p: UnsafeMutableRawPointer) {
    p.storeBytes(of: word, as: UInt64.self)
    dirty.formUnion(lines(p, 8))
  }
  func storeNontemporal(_ word: UInt64, at p: UnsafeMutableRawPointer) {
    store(word, at: p)
    flush(p, count: 8)
  }
  func write(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    guard let bytes = source.baseAddress, source.count > 0 else { return }
    p.copyMemory(from: bytes, byteCount: source.count)
    dirty.formUnion(lines(p, source.count))
  }
  func writeNontemporal(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    write(source, at: p)
    flush(p, count: source.count)
  }
  func fill(_ byte: UInt8, count: Int, at p: UnsafeMutableRawPointer) {
    guard count > 0 else { return }
    p.initializeMemory(as: UInt8.self, repeating: byte, count: count)
    dirty.formUnion(lines(p, count))
  }
  func flush(_ p: UnsafeMutableRawPointer, count: Int) {
    guard count > 0 else { return }
    for line in lines(p, count) where dirty.contains(line) { flushed[line] = Array(content(line)) }
  }
  func order() throws(NVMError) { settle() }
  func fence() throws(NVMError) { settle() }

  private func settle() {
    do {
      try beforeFence?(self)
    } catch {
      if failure == nil { failure = error }
    }
    for (line, bytes) in flushed {
      durable.replaceSubrange(line * 64..<line * 64 + 64, with: bytes)
      if content(line).elementsEqual(bytes) { dirty.remove(line) }
    }
    flushed.removeAll(keepingCapacity: true)
  }

  /// What a crash now may leave: each line that is not settled as it was, or as it is, as `pick` says.
  func image(_ pick: (Int) -> Bool) -> [UInt8] {
    var image = durable
    for line in dirty where pick(line) {
      image.replaceSubrange(line * 64..<line * 64 + 64, with: content(line))
    }
    return image
  }
  /// Nothing, everything, and a few in between.
  func images(_ random: inout SeededGenerator) -> [[UInt8]] {
    var all = [image { _ in false }, image { _ in true }]
    if dirty.count > 1 {
      let chosen = Set(dirty.sorted().filter { _ in Bool.random(using: &random) })
      all.append(image { chosen.contains($0) })
      all.append(image { !chosen.contains($0) })
    }
    return all
  }
}
