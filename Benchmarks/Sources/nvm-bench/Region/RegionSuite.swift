import ArgumentParser
import CBench
import Foundation
import NVMRegion
import PeerHeaps

struct RegionCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "region",
    abstract:
      "The primitives: ours, bare instructions, libpmem; on a file also write and fdatasync, and msync.")
  @OptionGroup var options: Options

  func run() throws {
    try runSuite(options) { results, directory in
      try options.forEachRound(results) { round in
        try RegionRound(options: options, results: results, directory: directory, round: round).run()
      }
    }
  }
}

/// Every contestant makes the same lines durable in turn, in a permutation of a range, so that no line is met again
/// soon.
struct RegionRound {
  let options: Options
  let results: Results
  let directory: String
  let round: Int

  func run() throws {
    let bytes = 64 << 20
    let region = try PersistentRegion.create(
      at: directory + "/region.nvm", size: bytes + (1 << 20), options: options.regionOptions)
    defer {
      try? region.close()
      unlink(directory + "/region.nvm")
    }
    let base = region.payloadStart
    let at = region.pointer(to: base)
    // Both have met every page before.
    region.fill(base, count: bytes)
    try region.persist(base, count: bytes)
    let isMemory = options.media == .emulated
    let n = isMemory ? options.size(1_000_000) : (options.quick ? 50 : 1000)
    let lines = bytes / 64
    func line(_ i: Int) -> Int { (i &* 0x9E3779B1 & 0x7FFF_FFFF) % lines * 64 }

    func measure(_ workload: String, _ count: Int, _ contestants: [(String, (Int) throws -> Void)]) throws {
      guard options.wants(workload: workload) else { return }
      let stretches = 8
      for s in 0..<stretches {
        for turn in 0..<contestants.count {
          let (name, body) = contestants[(turn + s + round) % contestants.count]
          guard options.wants(peer: name) else { continue }
          let range = count * s / stretches..<count * (s + 1) / stretches
          let before = Counts(region.threadCounters)
          let began = options.media == .emulated ? options.now() : bench_ns()
          for i in range { try body(i) }
          var sample = Sample(
            ns: (options.media == .emulated ? options.now() : bench_ns()) - began, operations: range.count)
          if name == ours {
            (sample.counts, sample.counted) = (Counts(region.threadCounters) - before, range.count)
          }
          results.add(key(workload, n), name, sample)
        }
      }
    }
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 64)
    buffer.initializeMemory(as: UInt8.self, repeating: 7)
    defer { buffer.deallocate() }
    if isMemory {
      try measure(
        "persist 8 B", n,
        [
          (
            ours,
            { i in
              region.store(UInt64(i), at: base + line(i))
              try region.persist(base + line(i), count: 8)
            }
          ),
          ("clwb + sfence", { i in bench_persist_clwb(at + line(i), UInt64(i)) }),
          ("libpmem pmem_persist", { i in bench_pmem_persist(at + line(i), UInt64(i)) }),
        ])
      try measure(
        "durable word", n,
        [
          (ours, { i in try region.storeDurable(UInt64(i), at: base + line(i)) }),
          ("movnti + sfence", { i in bench_persist_nt(at + line(i), UInt64(i)) }),
          ("libpmem pmem_memcpy_persist", { i in bench_pmem_copy(at + line(i), buffer.baseAddress, 8) }),
        ])
      for size in [64, 256, 4096] {
        try measure(
          "write \(size) B durably", n / (size / 64),
          [
            (
              ours,
              { i in
                let o = line(i) % (bytes - size)
                region.writeFlushed(UnsafeRawBufferPointer(rebasing: buffer[0..<size]), at: base + o)
                try region.fence()
              }
            ),
            (
              "libpmem pmem_memcpy_persist",
              { i in
                bench_pmem_copy(at + line(i) % (bytes - size), buffer.baseAddress, size)
              }
            ),
          ])
      }
      try measure(
        "fence with nothing pending", n,
        [
          (ours, { _ in try region.fence() }), ("sfence", { _ in bench_fence() }),
        ])
    } else {
      let fd = Glibc.open(directory + "/plain", O_RDWR | O_CREAT | O_TRUNC, 0o600)
      guard fd >= 0 else { return }
      defer {
        close(fd)
        unlink(directory + "/plain")
      }
      _ = posix_fallocate(fd, 0, bytes)
      guard let map = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), map != MAP_FAILED else {
        return
      }
      defer { munmap(map, bytes) }
      fsync(fd)
      for (name, size) in [("persist 8 B", 8), ("write 4096 B durably", 4096)] {
        func place(_ i: Int) -> Int { line(i) & ~4095 }
        try measure(
          name, n,
          [
            (
              ours,
              { i in
                region.write(
                  UnsafeRawBufferPointer(rebasing: buffer[0..<size]), at: base + place(i) % (bytes - 4096))
                try region.persist(base + place(i) % (bytes - 4096), count: size)
              }
            ),
            (
              "pwrite + fdatasync",
              { i in
                pwrite(fd, buffer.baseAddress, size, off_t(place(i)))
                fdatasync(fd)
              }
            ),
            (
              "msync",
              { i in
                (map + place(i)).copyMemory(from: buffer.baseAddress!, byteCount: size)
                msync(map + place(i), 4096, Int32(MS_SYNC))
              }
            ),
          ])
      }
    }
  }

  private func key(_ workload: String, _ n: Int) -> Results.Key {
    Results.Key(suite: "region", workload: workload, media: options.mediaName, threads: 1, n: n)
  }
}
