import Foundation

/// Of memory that nobody uses a virtual machine may give its host some back within seconds. To have it again costs
/// microseconds a page, more than an insert, and falls on whichever contestant happens to grow then.
enum WarmMemory {
  /// Takes free memory and gives it back, so that what is allocated next is there. Outside of what is timed.
  static func prepare(bytes: Int = 256 << 20) {
    let page = 4096
    let at = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    guard let at, at != MAP_FAILED else { return }
    madvise(at, bytes, Int32(MADV_HUGEPAGE))
    for i in stride(from: 0, to: bytes, by: page) { at.storeBytes(of: 1, toByteOffset: i, as: UInt8.self) }
    munmap(at, bytes)
  }
}
