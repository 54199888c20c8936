import CBench
import Foundation
import NVMBTree
import NVMRegion
import NVMalloc

/// Values of 100 bytes under keys of 8 bytes, of 16 to 64 random bytes, and of 60 bytes that begin with the same 40.
extension TreeRound {
  func texts() {
    let count = min(n, 2_000_000)
    var random = Random(seed: options.seed &+ 9)
    let order = (0..<min(steady, count)).map { _ in Int.random(in: 0..<count, using: &random) }
    if wants("8-byte keys, records") {
      compare("8-byte keys, records", space.keys(0..<count), order, copy: { $0 })
    }
    if wants("random bytes, records") {
      let keys = (0..<count).map { i -> [UInt8] in
        var random = Random(seed: UInt64(i) &+ options.seed)
        return (0..<16 + Int(random.next() % 49)).map { _ in UInt8(truncatingIfNeeded: random.next()) }
      }
      compare("random bytes, records", keys, order, copy: { $0.span.withUnsafeBufferPointer { Array($0) } })
    }
    if wants("URLs, records") {
      let prefix = Array("https://www.example.org/packages/all/of/".utf8)
      let digits = Array("0123456789abcdefghij".utf8)
      let keys = (0..<count).map { i -> [UInt8] in
        var rest = space.key(i)
        return prefix
          + (0..<20).map { _ in
            defer { rest = rest / 9 &+ rest << 40 }
            return digits[Int(rest % 20)]
          }
      }
      compare("URLs, records", keys, order, copy: { $0.span.withUnsafeBufferPointer { Array($0) } })
    }
  }

  /// - Parameter copy: a key of its own, so that those asked for lie in the order in which they are asked: else the
  ///   look-ups' time would be half that of the caller's own misses.
  private func compare<Key: DurableKey>(
    _ name: String, _ keys: [Key], _ order: [Int], copy: (Key) -> Key
  ) {
    let path = directory + "/texts.nvm"
    unlink(path)
    defer { unlink(path) }
    do {
      let region = try PersistentRegion.create(at: path, size: 64 << 20, options: options.regionOptions)
      let heap = try PersistentHeap.format(region)
      let tree = try DurableBTree<Key, [UInt8]>(in: heap, root: "texts")
      let value = [UInt8](repeating: 7, count: 100)
      measure("insert, " + name, keys.count, region) {
        for key in keys { try tree.setValue(value, forKey: key) }
      }
      let asked = order.map { copy(keys[$0]) }
      measure("look-up, " + name, order.count, region) {
        for key in asked {
          let last = try tree.withBytes(forKey: key) { span -> UInt8 in
            if let span { span.unsafeLoad(fromByteOffset: 99, as: UInt8.self) } else { 0 }
          }
          if last != 7 { throw CancellationError() }
        }
      }
      measure("look-up in batches, " + name, order.count, region) {
        for from in stride(from: 0, to: asked.count, by: 1000) {
          let slice = asked[from..<min(from + 1000, asked.count)]
          if try tree.values(forKeys: slice).contains(where: { $0 != value }) { throw CancellationError() }
        }
      }
      tree.close()
      heap.close()
      try region.close()
    } catch {
      results.check(1, "\(name): \(error)")
    }
  }

  private func measure(_ name: String, _ count: Int, _ region: PersistentRegion, _ body: () throws -> Void) {
    let before = Counts(region.threadCounters)
    let began = options.now()
    do { try body() } catch { results.check(1, "\(name): \(error)") }
    var sample = Sample(ns: options.now() - began, operations: count)
    sample.counts = Counts(region.threadCounters) - before
    sample.counted = count
    results.add(key(name, n: min(n, 2_000_000)), ours, sample)
  }
}
