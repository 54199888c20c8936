import CNVM
import Glibc

extension PersistentRegion {
  /// Asks for large pages under a range of emulated memory, widened to whole ones. Persistent memory is mapped by large
  /// pages wherever its blocks allow; a tmpfs that stands in for it is not, unless asked page by page, and then each
  /// access to a random place pays for a walk through the page tables. Only advice: costs a copy of the range's pages
  /// (about 0.3 ms for each 2 MiB), and what the kernel refuses stays as it is. No effect on other media.
  public func useLargePages(_ offset: Offset, count: Int) {
    guard media == .emulated, count > 0 else { return }
    // Pages of which some are closed cannot be large: the thread that closes asks, when a part is open as a whole.
    if let pages, nvm_guard_want_large(pages.guarding, UInt64(offset.bytes), UInt64(count)) != 0 { return }
    let large = 2 << 20
    let start = offset.bytes & ~(large - 1)
    let end = min((offset.bytes + count + large - 1) & ~(large - 1), size & ~(large - 1))
    guard end > start else { return }
    let collapse: Int32 = 25  // MADV_COLLAPSE, Linux 6.1
    madvise(baseAddress + start, end - start, collapse)
  }
}
