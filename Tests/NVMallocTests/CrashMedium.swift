import NVMRegion
import NVMalloc
import XCTest

/// Memory that remembers, line by line, which contents a crash may leave: the one that is certain to survive
/// (its last flush that a fence followed) and every later one, store by store. A write of several words has
/// no order among them, so it adds a torn version too. One thread only.
final class CrashMedium: RegionMedium, @unchecked Sendable {
  private var base: UnsafeMutableRawPointer!
  /// What is certain to survive.
  private(set) var durable: [UInt8] = []
  /// Contents of a line since then, oldest first; the last is the one in memory.
  private var versions: [Int: [[UInt8]]] = [:]
  /// Lines flushed since the last fence, and how many of their versions.
  private var flushed: [Int: Int] = [:]
  private var random = SplitMix(seed: 1)
  /// Called before each fence and order.
  var beforeFence: ((CrashMedium) -> Void)?

  /// Starts from the bytes of an image.
  init(image: [UInt8] = []) { durable = image }

  func attach(base: UnsafeMutableRawPointer, path: String) { self.base = base }
  func didGrow(to size: Int) {
    if durable.count < size { durable += [UInt8](repeating: 0, count: size - durable.count) }
  }

  private func line(_ i: Int) -> [UInt8] { Array(UnsafeRawBufferPointer(start: base + i * 64, count: 64)) }

  private func change(_ p: UnsafeMutableRawPointer, _ count: Int, _ body: () -> Void) {
    guard count > 0 else { return }
    let start = p - base
    didGrow(to: (start + count + 4095) & ~4095)
    let lines = start / 64...(start + count - 1) / 64
    let old = count > 8 ? lines.map(line) : []
    body()
    for (i, n) in lines.enumerated() {
      let new = line(n)
      if count > 8 {
        var torn = new
        for word in 0..<8 where Bool.random(using: &random) {
          torn.replaceSubrange(word * 8..<word * 8 + 8, with: old[i][word * 8..<word * 8 + 8])
        }
        versions[n, default: []].append(torn)
      }
      versions[n, default: []].append(new)
    }
  }
  func store(_ word: UInt64, at p: UnsafeMutableRawPointer) {
    change(p, 8) { p.storeBytes(of: word, as: UInt64.self) }
  }
  func storeNontemporal(_ word: UInt64, at p: UnsafeMutableRawPointer) {
    store(word, at: p)
    flush(p, count: 8)
  }
  func write(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    change(p, source.count) { p.copyMemory(from: source.baseAddress!, byteCount: source.count) }
  }
  func writeNontemporal(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    write(source, at: p)
    flush(p, count: source.count)
  }
  func fill(_ byte: UInt8, count: Int, at p: UnsafeMutableRawPointer) {
    change(p, count) { p.initializeMemory(as: UInt8.self, repeating: byte, count: count) }
  }
  func flush(_ p: UnsafeMutableRawPointer, count: Int) {
    guard count > 0 else { return }
    let start = p - base
    for n in start / 64...(start + count - 1) / 64 {
      if let v = versions[n] { flushed[n] = v.count }
    }
  }
  func order() throws(NVMError) { settle() }
  func fence() throws(NVMError) { settle() }
  private func settle() {
    beforeFence?(self)
    for (n, count) in flushed {
      guard var v = versions[n] else { continue }
      durable.replaceSubrange(n * 64..<n * 64 + 64, with: v[count - 1])
      v.removeFirst(count)
      versions[n] = v.isEmpty ? nil : v
    }
    flushed.removeAll(keepingCapacity: true)
  }

  /// What a crash now leaves, if line `n` keeps the `pick(n, count)`-th of its later contents, 0 for none.
  func image(_ pick: (_ line: Int, _ count: Int) -> Int) -> [UInt8] {
    var image = durable
    for (n, v) in versions.sorted(by: { $0.key < $1.key }) {
      let k = pick(n, v.count)
      if k > 0 { image.replaceSubrange(n * 64..<n * 64 + 64, with: v[k - 1]) }
    }
    return image
  }

  /// Some images: nothing, everything, each line alone at each content and each line held back, random
  /// mixtures.
  func images(_ generator: inout SplitMix, random count: Int = 6) -> [[UInt8]] {
    var all = [image { _, _ in 0 }, image { _, count in count }]
    for (line, v) in versions.sorted(by: { $0.key < $1.key }).prefix(12) {
      for k in Set([1, v.count / 2, v.count - 1, v.count]).sorted() where k > 0 {
        all.append(image { at, _ in at == line ? k : 0 })
      }
      all.append(image { $0 == line ? 0 : $1 })
    }
    for _ in 0..<count { all.append(image { Int.random(in: 0...$1, using: &generator) }) }
    return all
  }
}

func openImage(
  _ image: [UInt8], maximumSize: Int, medium: CrashMedium? = nil
) throws -> PersistentHeap {
  try image.withUnsafeBytes { bytes in
    let region = try PersistentRegion.inMemory(
      image: bytes, size: bytes.count, maximumSize: maximumSize, medium: medium)
    return try PersistentHeap.open(region, options: options())
  }
}
