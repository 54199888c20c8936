import CNVM
import Glibc

extension PersistentRegion {
  /// Asks for large pages under a range of emulated memory, widened to whole ones. Persistent memory is mapped by large
  /// pages wherever its blocks allow; a tmpfs that stands in for it is not, unless asked page by page, and then each
  /// access to a random place pays for a walk through the page tables. A region's file there is made of large pages from
  /// the start, but for what is less than a whole one at its ends or grew by less. For those this costs a copy. Only
  /// advice: what the kernel refuses stays as it is. No effect on other media.
  ///
  /// On a journaled file that is not protected they are made in the background, of private memory, while all of it
  /// stays within half of what may be private (an eighth of the memory that the process may have).
  public func useLargePages(_ offset: Offset, count: Int) { useLargePages([(offset, count)]) }

  /// The same for several ranges. Where they are more than memory allows altogether, a journaled file gets none.
  package func useLargePages(_ ranges: [(offset: Offset, count: Int)]) {
    if media == .journaledFile, protection == .none {
      journal?.useLargePages(ranges.map { $0.offset.bytes..<$0.offset.bytes + max(0, $0.count) })
    }
    guard media == .emulated else { return }
    let large = 2 << 20
    for (offset, count) in ranges where count > 0 {
      // Pages of which some are closed cannot be large: the thread that closes asks, when a part is open as a whole.
      if let pages, nvm_guard_want_large(pages.guarding, UInt64(offset.bytes), UInt64(count)) != 0 {
        continue
      }
      let start = offset.bytes & ~(large - 1)
      let end = min((offset.bytes + count + large - 1) & ~(large - 1), size & ~(large - 1))
      guard end > start else { continue }
      let collapse: Int32 = 25  // MADV_COLLAPSE, Linux 6.1
      madvise(baseAddress + start, end - start, collapse)
    }
  }
}
