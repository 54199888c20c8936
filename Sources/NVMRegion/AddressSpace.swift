import Glibc

/// A reserved range of addresses into which a region is mapped piece by piece, so that growth never
/// moves the base.
struct AddressSpace {
  let base: UnsafeMutableRawPointer
  let size: Int

  /// Reserves `wanted` bytes, or the largest quarter-step below that the process may have, but not less
  /// than `needed`; all are rounded to whole pages. The base is aligned to 2 MiB.
  static func reserve(wanted: Int, needed: Int, path: String) throws(NVMError) -> AddressSpace {
    let huge = 2 << 20
    // The largest page in use (arm64) is 64 KiB.
    let page = 64 << 10
    let needed = (needed + page - 1) & ~(page - 1)
    var size = max((min(wanted, 1 << 47) + page - 1) & ~(page - 1), needed)
    while true {
      if let p = SystemCall.reserve(size + huge) {
        let start = (Int(bitPattern: p) + huge - 1) & ~(huge - 1)
        let base = UnsafeMutableRawPointer(bitPattern: start)!
        // Give back what lies outside the aligned range.
        if base > p { munmap(p, base - p) }
        let end = base + size
        let slack = (p + size + huge) - end
        if slack > 0 { munmap(end, slack) }
        return AddressSpace(base: base, size: size)
      }
      if size == needed { break }
      size = max(needed, size / 4 & ~(page - 1))
    }
    throw NVMError(
      code: .outOfMemory,
      message: "The process may not reserve \(needed) bytes of address space to map the file. "
        + "Raise its limit (ulimit -v).", path: path)
  }

  /// Closes a hole that a failed mapping may have left in the unused part, before somebody else takes the
  /// addresses. Harmless where there is none.
  func holdAgain(from used: Int) {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE
    // One page range after the other: a range that is partly ours is refused as a whole.
    let page = 64 << 10
    var at = (used + page - 1) & ~(page - 1)
    while at < size, mmap(base + at, page, PROT_NONE, flags, -1, 0) != MAP_FAILED { at += page }
  }

  func release() { munmap(base, size) }
}
