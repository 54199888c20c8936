import CNVM
import Glibc

extension PersistentRegion {
  /// Grows the region to at least `size` bytes (rounded up to 4096) in place: the base stays, the new bytes
  /// read as zero. Durable on return. Does nothing where the region is as large already.
  ///
  ///     posix_fallocate, fsync  →  map  →  superblock copy 1 (holds), copy 2
  ///
  /// A crash before the superblock leaves a file that is longer than it says, which is harmless. O(new bytes)
  /// at worst; other threads go on working meanwhile.
  ///
  /// - Throws: `.outOfSpace` beyond ``maximumSize``, `.diskFull` (the store goes on at its old size),
  ///   `.outOfMemory`, `.ioFailure`, and as ``checkWritable()``.
  public func grow(toAtLeast wanted: Int) throws(NVMError) {
    try checkWritable()
    var superblockFailed = false
    do throws(NVMError) {
      try state.withLock { (state) throws(NVMError) in
        let old = Int(state.superblock.size)
        guard wanted > old else { return }
        guard wanted <= maximumSize else {
          throw NVMError(
            code: .outOfSpace,
            message:
              "The region may not grow to \(wanted) bytes: its limit is \(maximumSize). Open it with a "
              + "larger maximum size.", path: path)
        }
        let new = min((wanted + 4095) & ~4095, maximumSize & ~4095)
        try extend(&state, from: old, to: new)
        superblockFailed = true
        try updateSuperblock(&state) { $0.size = UInt64(new) }
        superblockFailed = false
        nvm_store_release(control.size, UInt64(new))
      }
    } catch {
      if superblockFailed { poison(error) }
      throw error
    }
  }

  private func extend(_ state: inout State, from old: Int, to new: Int) throws(NVMError) {
    if state.fd >= 0 {
      let allocated = SystemCall.allocate(state.fd, old, new - old)
      if allocated < 0 {
        // Some file systems leave the file extended.
        _ = SystemCall.truncate(state.fd, old)
        throw Self.allocationError(-allocated, size: new, path: path)
      }
      let synced = SystemCall.sync(state.fd)
      guard synced == 0 else {
        throw NVMError(
          code: .ioFailure, message: "The grown file could not be made durable; it goes on at its old size.",
          path: path, errno: -synced)
      }
      let mapped =
        media == .persistentMemory || media == .autoFlushedPersistentMemory
        ? SystemCall.mapSync(baseAddress + old, new - old, state.fd, old)
        : SystemCall.map(baseAddress + old, new - old, flags: MAP_SHARED, state.fd, old)
      guard mapped == 0 else {
        throw NVMError(
          code: .outOfMemory, message: "The grown file cannot be mapped; it goes on at its old size.",
          path: path,
          errno: -mapped)
      }
    } else {
      try Self.mapAnonymous(baseAddress + old, new - old, path)
    }
    medium?.didGrow(to: new)
  }

  /// Zero pages of no file.
  static func mapAnonymous(_ at: UnsafeMutableRawPointer, _ count: Int, _ path: String) throws(NVMError) {
    let mapped = SystemCall.map(at, count, flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    guard mapped == 0 else {
      throw NVMError(code: .outOfMemory, message: "No memory to map the region.", path: path, errno: -mapped)
    }
  }
}
