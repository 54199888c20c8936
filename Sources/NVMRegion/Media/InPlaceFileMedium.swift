import CNVM
import Glibc

/// An ordinary file mapped shared: stores go to the page cache, `flush` notes pages, `order` and `fence`
/// write the thread's noted pages back with `pmem_msync`, merged into ranges.
///
/// Fault model: 512-byte sectors, each at any version since the last completed sync; so what relies on
/// the order of stores within one 64-byte line holds here too.
///
/// The kernel tells of a page that it could not write once for each open file, so of two syncs at the same time
/// one may return success for pages of which the other is told that they are lost. So each sync has a ticket,
/// and before it reports success it waits for those that had begun before it ended, and looks whether one failed.
package final class InPlaceFileMedium: RegionMedium, @unchecked Sendable {
  private static let pageSize = 4096
  private struct Attachment {
    var base: UnsafeMutableRawPointer
    var path: String
  }
  // Written once in attach, before the region is visible to any other thread.
  private var attachment: Attachment?
  /// Ranges of pages noted by each thread slot and not yet synced. A lock each, since slot 0 can be shared.
  private let noted: [Noted]
  private let syncs = Monitor(Syncs())

  private struct Syncs {
    var nextTicket = 0
    /// The tickets of those under way. Few, so an array.
    var underWay: [Int] = []
    /// The first failure: from then on nothing is synced.
    var failure: NVMError?
  }

  private final class Noted: Sendable {
    let ranges = Lock<[Range<Int>]>([])
  }

  package init() { noted = (0..<Int(NVM_THREAD_SLOTS)).map { _ in Noted() } }

  package func attach(base: UnsafeMutableRawPointer, path: String) {
    attachment = Attachment(base: base, path: path)
  }

  package func store(_ word: UInt64, at p: UnsafeMutableRawPointer) { nvm_store_release(p, word) }
  package func storeNontemporal(_ word: UInt64, at p: UnsafeMutableRawPointer) {
    nvm_store_release(p, word)
    flush(p, count: 8)
  }
  package func write(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    if let from = source.baseAddress { p.copyMemory(from: from, byteCount: source.count) }
  }
  package func writeNontemporal(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    write(source, at: p)
    flush(p, count: source.count)
  }
  package func fill(_ byte: UInt8, count: Int, at p: UnsafeMutableRawPointer) {
    memset(p, Int32(byte), count)
  }

  package func flush(_ p: UnsafeMutableRawPointer, count: Int) {
    guard count > 0, let attachment else { return }
    let first = (p - attachment.base) / Self.pageSize
    let end = (p - attachment.base + count - 1) / Self.pageSize + 1
    noted[Int(nvm_thread_slot())].ranges.withLock { ranges in
      // The usual run of flushes touches one page again and again, or goes on in the next.
      if let last = ranges.last, last.lowerBound <= first, first <= last.upperBound {
        ranges[ranges.count - 1] = last.lowerBound..<max(last.upperBound, end)
      } else {
        ranges.append(first..<end)
      }
    }
  }

  package func order() throws(NVMError) { try fence() }

  package func fence() throws(NVMError) {
    guard let attachment else { return }
    let slot = Int(nvm_thread_slot())
    // Nothing to do. (In the shared slot another thread may have this one's pages in hand: wait for it.)
    if slot != 0, noted[slot].ranges.withLock({ $0.isEmpty }) { return }
    let failure = oneOfSeveral {
      for range in takeRanges(slot) {
        let result = SystemCall.msync(
          attachment.base + range.lowerBound * Self.pageSize, range.count * Self.pageSize)
        guard result < 0 else { continue }
        return NVMError(
          code: .ioFailure,
          message: "Writing to the disk failed. Changes acknowledged before are safe; the last ones may or "
            + "may not be there. Close the file, see to the disk and open it again.",
          path: attachment.path, offset: UInt64(range.lowerBound * Self.pageSize), errno: -result)
      }
      return nil
    }
    if let failure { throw failure }
  }

  /// Syncs with a ticket. Never after a failure: the kernel drops the dirty pages of a failed sync and a second
  /// call lies.
  private func oneOfSeveral(_ sync: () -> NVMError?) -> NVMError? {
    var ticket = 0
    let before = syncs.change {
      ticket = $0.nextTicket
      $0.nextTicket += 1
      if $0.failure == nil { $0.underWay.append(ticket) }
    }
    if let failure = before.failure { return failure }
    let failure = sync()
    var begun = 0
    let after = syncs.change {
      $0.underWay.removeAll { $0 == ticket }
      if $0.failure == nil { $0.failure = failure }
      begun = $0.nextTicket
    } thenWaitUntil: { now in
      now.failure != nil || now.underWay.allSatisfy { $0 >= begun }
    }
    return after.failure
  }

  /// The slot's ranges, in ascending order, merged where they touch.
  private func takeRanges(_ slot: Int) -> [Range<Int>] {
    let ranges = noted[slot].ranges.withLock { ranges in
      defer { ranges.removeAll(keepingCapacity: ranges.count < 4096) }
      return ranges.sorted { $0.lowerBound < $1.lowerBound }
    }
    var merged: [Range<Int>] = []
    for range in ranges {
      if let last = merged.last, range.lowerBound <= last.upperBound {
        merged[merged.count - 1] = last.lowerBound..<max(last.upperBound, range.upperBound)
      } else {
        merged.append(range)
      }
    }
    return merged
  }

  package func sync(_ fd: Int32) -> Int32 {
    let failure = oneOfSeveral {
      let result = SystemCall.sync(fd)
      guard result < 0 else { return nil }
      return NVMError(
        code: .ioFailure, message: "Writing to the disk failed while the file grew.", path: attachment?.path,
        errno: -result)
    }
    return failure.map { -($0.errno ?? EIO) } ?? 0
  }
}
