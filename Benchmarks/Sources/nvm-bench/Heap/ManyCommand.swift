import ArgumentParser
import CBench
import Foundation
import NVMRegion
import NVMalloc

/// Not a race: a heap with very many live objects, to the end.
struct ManyCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "many",
    abstract:
      "10 million live objects: allocate, open again, verify, free all, and the whole heap is one piece again."
  )
  @OptionGroup var options: Options

  func run() throws {
    for line in Machine.description { print(line) }
    try options.withDirectory { directory in
      let n = options.size(10_000_000)
      var regionOptions = options.regionOptions
      // It does not grow, so what is found free in the end was there before.
      let size = max(64 << 20, n * 256)
      regionOptions.maximumSize = size
      let path = directory + "/many.nvm"
      var began = bench_ns()
      func step(_ what: String) {
        let now = bench_ns()
        print(String(format: "%8.3f s  %@", Double(now - began) / 1e9, what))
        began = bench_ns()
      }
      var region = try PersistentRegion.create(at: path, size: size, options: regionOptions)
      var heap = try PersistentHeap.format(region)
      // 24 to 200 bytes. A block's first word is a tag of its place.
      var random = Random(seed: options.seed)
      var blocks: [UInt64] = []
      blocks.reserveCapacity(n)
      for i in 0..<n {
        let block = try heap.allocate(
          byteCount: Int.random(in: 24...200, using: &random),
          durability: i & 63 == 63 ? .immediate : .deferred)
        region.pointer(to: block).storeBytes(of: bench_tag(block.rawValue), as: UInt64.self)
        blocks.append(block.rawValue)
      }
      try region.fence()
      step("\(n) objects allocated, in a heap of \(region.size >> 20) MiB")
      heap.close()
      try region.close()
      began = bench_ns()
      region = try PersistentRegion.open(at: path, options: regionOptions)
      heap = try PersistentHeap.open(region)
      step("opened again")
      let report = try heap.verify()
      guard report.isClean, report.liveBlocks == n else {
        print("WRONG: \(report.liveBlocks) live, problems: \(report.problems)")
        throw ExitCode.failure
      }
      step("\(report.blocks) headers in \(report.slabs) slabs verified, \(report.liveBlocks) live")
      blocks.shuffle(using: &random)
      for (i, block) in blocks.enumerated() {
        let offset = Offset(rawValue: block)
        guard region.pointer(to: offset).load(as: UInt64.self) == bench_tag(block) else {
          print("WRONG: the block at \(block) was overwritten")
          throw ExitCode.failure
        }
        try heap.deallocate(offset, durability: i & 63 == 63 ? .immediate : .deferred)
      }
      try region.fence()
      step("all of them freed, in random order")
      // All that the region holds, but for the heap's own tables and what rounding them up to units costs.
      let statistics = heap.statistics
      let whole = statistics.totalBytes - statistics.metadataBytes
      var largest = whole & ~(heap.extentUnit - 1)
      while largest + 2 * heap.extentUnit > whole {
        if let block = try? heap.allocate(byteCount: largest) {
          step("the largest allocation possible: \(largest >> 20) of \(region.size >> 20) MiB")
          try heap.deallocate(block)
          heap.close()
          return try region.close()
        }
        largest -= heap.extentUnit
      }
      print("WRONG: not even \(largest) bytes of \(whole) are one piece")
      throw ExitCode.failure
    }
  }
}
