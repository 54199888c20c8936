import CNVM
import Glibc

extension PersistentRegion {
  /// Grows the region to at least `size` bytes (rounded up to 4096) in place: the base stays, the new bytes
  /// read as zero. Durable on return. Does nothing where the region is as large already.
  ///
  ///     posix_fallocate, fsync  →  map  →  superblock copy 1 (holds), copy 2
  ///
  /// A crash before the superblock leaves a file that is longer than it says, which is harmless: what stands
  /// there is cut off before the next growth. O(new bytes) at worst; other threads go on working meanwhile.
  ///
  /// - Throws: `.outOfSpace` beyond ``maximumSize``, `.diskFull` (the store goes on at its old size),
  ///   `.outOfMemory`, `.ioFailure` (a failed sync poisons the region), and as ``checkWritable()``.
  public func grow(toAtLeast wanted: Int) throws(NVMError) {
    try checkWritable()
    try state.withLock { (state) throws(NVMError) in
      // Closed or poisoned meanwhile.
      if let error = unusableError(state) { throw error }
      let old = Int(state.superblock.size)
      guard wanted > old else { return }
      guard wanted <= maximumSize else {
        throw NVMError(
          code: .outOfSpace,
          message: "The region may not grow to \(wanted) bytes: its limit is \(maximumSize). Open it with a "
            + "larger maximum size.", path: path)
      }
      let new = min((wanted + 4095) & ~4095, maximumSize)
      if state.fd >= 0 {
        try extendFile(&state, from: old, to: new)
        adviseReads(size: new)
      } else {
        try Self.mapAnonymous(baseAddress + old, new - old, path)
      }
      medium?.didGrow(to: new)
      do throws(NVMError) {
        try updateSuperblock(&state) { $0.size = UInt64(new) }
      } catch {
        poison(&state, error)
        throw error
      }
      nvm_store_release(control.size, UInt64(new))
    }
  }

  /// Allocates, syncs and maps the new part of the file. On a failure the file has its old size.
  private func extendFile(_ state: inout State, from old: Int, to new: Int) throws(NVMError) {
    var info = stat()
    var result = SystemCall.stat(state.fd, &info)
    // What stands past the end (left by a crash in growth, or appended by somebody) is no fresh space.
    if result == 0, info.st_size > old { result = SystemCall.truncate(state.fd, old) }
    guard result == 0 else {
      throw NVMError(
        code: .ioFailure, message: "The file cannot be grown; it goes on at its old size.", path: path,
        errno: -result)
    }
    result = SystemCall.allocate(state.fd, old, new - old)
    if result < 0 {
      // Some file systems leave the file extended.
      _ = SystemCall.truncate(state.fd, old)
      throw Self.allocationError(-result, size: new, path: path)
    }
    result = medium?.sync(state.fd) ?? SystemCall.sync(state.fd)
    if result < 0 {
      // It may have been other threads' pages that could not be written, and nobody would be told again.
      let error = NVMError(
        code: .ioFailure,
        message:
          "Writing to the disk failed while the file grew. Close the file, see to the disk and open it "
          + "again.", path: path, errno: -result)
      poison(&state, error)
      throw error
    }
    // From a page boundary of this machine, which may have larger pages than the one that made the file. A private page
    // that reaches past the old end stays: it may hold changes that are not in the file yet, and zeroes behind them.
    let page = Int(sysconf(Int32(_SC_PAGESIZE)))
    let isPrivate = media == .journaledFile
    let start = (isPrivate ? old + page - 1 : old) & ~(page - 1)
    if start >= new {
      result = 0
    } else if media == .persistentMemory || media == .autoFlushedPersistentMemory {
      result = SystemCall.mapSync(baseAddress + start, new - start, state.fd, start)
    } else {
      result = SystemCall.map(
        baseAddress + start, new - start, flags: isPrivate ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED,
        state.fd, start)
    }
    if result < 0 {
      _ = SystemCall.truncate(state.fd, old)
      // Some kernels unmap before they fail.
      space.holdAgain(from: old)
      throw NVMError(
        code: .outOfMemory, message: "The grown file cannot be mapped; it goes on at its old size.",
        path: path,
        errno: -result)
    }
  }

  /// Zero pages of no file.
  static func mapAnonymous(_ at: UnsafeMutableRawPointer, _ count: Int, _ path: String) throws(NVMError) {
    // What is small is wanted whole, and one call is cheaper than a page fault a page.
    let populate = count <= 1 << 20 ? MAP_POPULATE : 0
    let mapped = SystemCall.map(
      at, count, flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | populate, -1, 0)
    guard mapped == 0 else {
      throw NVMError(code: .outOfMemory, message: "No memory to map the region.", path: path, errno: -mapped)
    }
  }
}
