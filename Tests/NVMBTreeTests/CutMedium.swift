import Glibc
import NVMRegion

/// Memory with threads on it whose power fails at one moment: keeps what is durable line by line, and at the chosen
/// operation takes the image that a crash leaves.
final class CutMedium: RegionMedium, @unchecked Sendable {
  private struct State {
    var base: UnsafeMutableRawPointer?
    /// What was flushed and then fenced, by line.
    var durable: [UInt8] = []
    /// The last store to each line that the durable content has.
    var durableVersion: [Int: Int] = [:]
    var version: [Int: Int] = [:]
    /// Of each thread, flushed and not yet fenced.
    var flushed: [UInt: [(line: Int, version: Int, bytes: [UInt8])]] = [:]
    var operations = 0
    var cutAfter = Int.max
    var random = SeededGenerator(seed: 0)
    var keepsDirtyLines = false
    var image: [UInt8]?
    var moment: UInt64 = 0
  }
  private let state = Lock(State())
  private let clock: @Sendable () -> UInt64

  init(clock: @escaping @Sendable () -> UInt64) { self.clock = clock }

  /// Cuts the power after so many operations from now, when all that was done before is durable; lines that are not
  /// survive at random, or not at all.
  func cut(_ region: PersistentRegion, after count: Int, seed: UInt64, keepsDirtyLines: Bool) {
    state.withLock { s in
      s.durable = [UInt8](UnsafeRawBufferPointer(start: s.base!, count: region.size))
      s.durableVersion = s.version
      s.cutAfter = s.operations + count
      s.random = SeededGenerator(seed: seed)
      s.keepsDirtyLines = keepsDirtyLines
    }
  }

  /// What the crash left, and when it came; taken now if the moment has not come yet.
  func takeImage() -> (bytes: [UInt8], moment: UInt64) {
    state.withLock { s in
      if s.image == nil { fail(&s) }
      return (s.image!, s.moment)
    }
  }

  private func fail(_ s: inout State) {
    s.moment = clock()
    var image = s.durable
    if s.keepsDirtyLines {
      for (line, version) in s.version.sorted(by: { $0.key < $1.key })
      where version != s.durableVersion[line, default: 0] && Bool.random(using: &s.random) {
        image.replaceSubrange(line * 64..<line * 64 + 64, with: bytes(s, line))
      }
    }
    s.image = image
  }

  private func bytes(_ s: State, _ line: Int) -> [UInt8] {
    [UInt8](UnsafeRawBufferPointer(start: s.base! + line * 64, count: 64))
  }
  private func lines(_ s: State, _ p: UnsafeMutableRawPointer, _ count: Int) -> ClosedRange<Int> {
    (p - s.base!) / 64...(p - s.base! + count - 1) / 64
  }
  private func step(_ s: inout State) {
    s.operations += 1
    if s.operations > s.cutAfter, s.image == nil { fail(&s) }
  }
  private func change(_ p: UnsafeMutableRawPointer, _ count: Int, _ body: () -> Void) {
    guard count > 0 else { return }
    state.withLock { s in
      step(&s)
      body()
      for line in lines(s, p, count) { s.version[line, default: 0] += 1 }
    }
  }

  func attach(base: UnsafeMutableRawPointer, path: String) { state.withLock { $0.base = base } }
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
    let thread = UInt(pthread_self())
    state.withLock { s in
      step(&s)
      for line in lines(s, p, count) {
        s.flushed[thread, default: []].append((line, s.version[line, default: 0], bytes(s, line)))
      }
    }
  }
  func order() throws(NVMError) { settle() }
  func fence() throws(NVMError) { settle() }
  private func settle() {
    // What a reader could see too early it sees now.
    usleep(50)
    let thread = UInt(pthread_self())
    state.withLock { s in
      step(&s)
      for (line, version, bytes) in s.flushed.removeValue(forKey: thread) ?? []
      where version > s.durableVersion[line, default: 0] {
        if s.durable.count >= line * 64 + 64 {
          s.durable.replaceSubrange(line * 64..<line * 64 + 64, with: bytes)
        }
        s.durableVersion[line] = version
      }
    }
  }
}
