package import CNVM
import Glibc

extension PersistentRegion {
  /// Calls `body` with the bytes at `offset`, which may be stored to directly while it runs: as the primitives'
  /// stores these are durable when they were flushed (``flush(_:count:)``) and fenced. Every granule that the range
  /// touches is open meanwhile, not the range alone. Without protection, `body` is simply called.
  ///
  /// Windows nest and are counted: one that ends here does not cut short another thread's. Thread-safe. O(granules).
  /// - Throws: `.invalidArgument` for a range outside the payload, `.readOnly`, as ``checkUsable()``, and what `body`
  ///   throws.
  public func withWritable<Result>(
    _ offset: Offset, count: Int, _ body: (UnsafeMutableRawBufferPointer) throws -> Result
  ) throws -> Result {
    try makeWritable(offset, count: count)
    // Fails only for a window that was not opened.
    defer { try? protect(offset, count: count) }
    return try body(UnsafeMutableRawBufferPointer(start: pointer(to: offset), count: count))
  }

  /// Opens a window on the granules of a range until ``protect(_:count:)`` takes it back. It holds at once: a store
  /// that comes before the pages have changed is granted. With `.keys` the window is the calling thread's alone, and
  /// of the whole region. Thread-safe. O(granules).
  /// - Throws: `.invalidArgument` for a range outside the payload or the 61,440th window on a granule, `.readOnly`, and as
  ///   ``checkUsable()``.
  public func makeWritable(_ offset: Offset, count: Int) throws(NVMError) {
    try checkWritable()
    try checkInside(offset, count)
    guard let pages, nvm_guard_open(pages.guarding, offset.rawValue, UInt64(count)) != 0 else { return }
    throw NVMError(
      code: .invalidArgument,
      message: "Too many windows are open on these bytes. Every makeWritable needs its protect.", path: path,
      offset: offset.rawValue)
  }

  /// Takes back a window that ``makeWritable(_:count:)`` opened on the same range; the last one asks for the
  /// granules to be closed. Any thread may (with `.keys`: the same thread). Thread-safe. O(granules).
  /// - Throws: `.invalidArgument` for a range that has no such window, or is outside the payload, and as
  ///   ``checkUsable()``.
  public func protect(_ offset: Offset, count: Int) throws(NVMError) {
    try checkUsable()
    try checkInside(offset, count)
    guard let pages, nvm_guard_close(pages.guarding, offset.rawValue, UInt64(count)) != 0 else { return }
    throw NVMError(
      code: .invalidArgument,
      message: "No window is open on these bytes. Protect the range that was made writable, once.",
      path: path,
      offset: offset.rawValue)
  }

  /// What protection has done. O(granules / 64).
  public var protectionStatistics: ProtectionStatistics { pages?.statistics ?? ProtectionStatistics() }

  private func checkInside(_ offset: Offset, _ count: Int) throws(NVMError) {
    guard !contains(offset, count: count) else { return }
    throw NVMError(
      code: .invalidArgument,
      message: "These \(count) bytes are not all in the region. Check offset and count.", path: path,
      offset: offset.rawValue)
  }

  // MARK: For the layers above, tests and benchmarks

  /// Tells the report of a stray write what lies where. `describer` runs in a signal handler; `context` must live until
  /// it is taken away with `nil`.
  package func setDescriber(_ describer: nvm_guard_describer?, context: UnsafeMutableRawPointer?) {
    if let pages { nvm_guard_describe(pages.guarding, describer, context) }
  }

  /// Carries out a batch now; with `everything` also closes what was asked for since the batch before.
  package func applyProtection(everything: Bool) {
    if let pages { nvm_guard_apply(pages.guarding, everything ? 1 : 0) }
  }

  /// The medium for a mapping that is to be protected, around the one it would have had.
  static func guarded(
    _ medium: (any RegionMedium)?, _ protection: RegionProtection, space: AddressSpace, mapped: Int,
    path: String, flushesLines: Bool
  ) throws(NVMError) -> (any RegionMedium)? {
    if protection == .none { return medium }
    let pages = try PageGuard(protection, base: space.base, capacity: space.size, mapped: mapped, path: path)
    return ProtectedMedium(medium, flushesLines: flushesLines, pages: pages)
  }
}
