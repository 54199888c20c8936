import CBench
import Foundation

/// What a sync of this disk costs at best: a record of 48 bytes for each insert, one after the other in a file that was
/// written before (a block that never was would cost the file system a change of its own), and one fdatasync for each
/// commit. No store: it keeps nothing that could be found again.
final class FloorStore: StoreContestant {
  let name = Stores.floor
  private let fd: Int32
  private let lock = NSLock()
  private var end = 0
  private static let size = 64 << 20

  init?(directory: String) {
    fd = open(directory + "/floor", O_RDWR | O_CREAT | O_TRUNC, 0o644)
    guard fd >= 0, posix_fallocate(fd, 0, off_t(Self.size)) == 0 else { return nil }
    let zeroes = [UInt8](repeating: 0, count: 1 << 20)
    for at in stride(from: 0, to: Self.size, by: zeroes.count) {
      guard pwrite(fd, zeroes, zeroes.count, off_t(at)) == zeroes.count else { return nil }
    }
    guard fsync(fd) == 0 else { return nil }
    // In large folios every sync would write a whole one.
    posix_fadvise(fd, 0, off_t(Self.size), POSIX_FADV_DONTNEED)
  }
  func session() -> (any StoreSession)? { Session(store: self) }
  func close() { Foundation.close(fd) }

  fileprivate func append(_ bytes: UnsafeRawBufferPointer) -> Bool {
    let at = lock.withLock {
      if end + bytes.count > Self.size { end = 0 }
      defer { end += bytes.count }
      return end
    }
    return pwrite(fd, bytes.baseAddress, bytes.count, off_t(at)) == bytes.count && fdatasync(fd) == 0
  }

  final class Session: StoreSession {
    private let store: FloorStore
    init(store: FloorStore) { self.store = store }
    func run(_ batch: bench_batch, _ outcome: inout bench_outcome) {
      let perCommit = max(1, Int(batch.per_commit))
      let record = 48
      let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: perCommit * record, alignment: 16)
      defer { buffer.deallocate() }
      buffer.initializeMemory(as: UInt8.self, repeating: 1)
      var i = 0
      while i < batch.count {
        let end = min(i + perCommit, batch.count)
        let began = batch.ticks == nil ? 0 : bench_ticks()
        for j in i..<end {
          buffer.storeBytes(of: batch.keys[j], toByteOffset: (j - i) * record, as: UInt64.self)
        }
        if !store.append(UnsafeRawBufferPointer(rebasing: buffer[..<((end - i) * record)])) {
          outcome.wrong &+= 1
        }
        if batch.ticks != nil { batch.ticks[i] = UInt32(truncatingIfNeeded: bench_ticks() &- began) }
        i = end
      }
    }
    func scanAll(_ outcome: inout bench_outcome) {}
    var counts: Counts? { nil }
    func end() {}
  }
}
