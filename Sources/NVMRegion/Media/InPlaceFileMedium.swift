import CNVM
import Glibc
import Synchronization

/// An ordinary file mapped shared: stores go to the page cache, `flush` notes pages, `order` and `fence`
/// write the thread's noted pages back with `pmem_msync`, merged into ranges.
///
/// Fault model: 512-byte sectors, each at any version since the last completed sync; so what relies on
/// the order of stores within one 64-byte line holds here too.
final class InPlaceFileMedium: RegionMedium, @unchecked Sendable {
  private static let pageSize = 4096
  private struct Attachment {
    var base: UnsafeMutableRawPointer
    var path: String
  }
  // Written once in attach, before the region is visible to any other thread.
  private var attachment: Attachment?
  /// Pages noted by each thread slot and not yet synced. A lock each, since slot 0 can be shared.
  private let noted: [Noted]

  private final class Noted: Sendable {
    let pages = Mutex<[Int]>([])
  }

  init() { noted = (0..<Int(NVM_THREAD_SLOTS)).map { _ in Noted() } }

  func attach(base: UnsafeMutableRawPointer, path: String) { attachment = Attachment(base: base, path: path) }

  func store(_ word: UInt64, at p: UnsafeMutableRawPointer) { nvm_store_release(p, word) }
  func storeNontemporal(_ word: UInt64, at p: UnsafeMutableRawPointer) {
    nvm_store_release(p, word)
    flush(p, count: 8)
  }
  func write(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    if let from = source.baseAddress { p.copyMemory(from: from, byteCount: source.count) }
  }
  func writeNontemporal(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    write(source, at: p)
    flush(p, count: source.count)
  }
  func fill(_ byte: UInt8, count: Int, at p: UnsafeMutableRawPointer) { memset(p, Int32(byte), count) }

  func flush(_ p: UnsafeMutableRawPointer, count: Int) {
    guard count > 0, let attachment else { return }
    let first = (p - attachment.base) / Self.pageSize
    let last = (p - attachment.base + count - 1) / Self.pageSize
    noted[Int(nvm_thread_slot())].pages.withLock { pages in
      // The usual run of flushes touches one page again and again.
      if first == last, pages.last == first { return }
      pages.append(contentsOf: first...last)
    }
  }

  func order() throws(NVMError) { try fence() }

  func fence() throws(NVMError) {
    guard let attachment else { return }
    let pages = noted[Int(nvm_thread_slot())].pages.withLock { pages in
      defer { pages.removeAll(keepingCapacity: pages.count < 4096) }
      return pages.sorted()
    }
    var i = 0
    while i < pages.count {
      let start = pages[i]
      var end = start + 1
      while i < pages.count, pages[i] <= end {
        end = max(end, pages[i] + 1)
        i += 1
      }
      let result = SystemCall.msync(
        attachment.base + start * Self.pageSize, (end - start) * Self.pageSize)
      if result < 0 {
        // Never retried: the kernel drops the dirty pages of a failed sync and a second call lies.
        throw NVMError(
          code: .ioFailure,
          message: "Writing to the disk failed. Changes acknowledged before are safe; the last ones may or "
            + "may not be there. Close the file, see to the disk and open it again.",
          path: attachment.path, offset: UInt64(start * Self.pageSize), errno: -result)
      }
    }
  }
}
