import CNVM
import Glibc

/// What the journal asks of the file under it. The crash explorer puts a recorder in its place.
///
/// Each call returns 0 or -errno. Offsets and lengths lie within the file.
package protocol JournalFile: AnyObject, Sendable {
  /// Fills the buffer; what lies past the end of the file is an error.
  func read(_ buffer: UnsafeMutableRawBufferPointer, at offset: Int) -> Int32
  func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) -> Int32
  /// Writes, and makes durable what it wrote.
  func writeDurably(_ bytes: UnsafeRawBufferPointer, at offset: Int) -> Int32
  /// Starts to write a range back, so that a later sync has less to wait for. May do nothing.
  func startWriting(at offset: Int, count: Int)
  /// Makes durable all that was written.
  func sync() -> Int32
  /// The file now has `size` bytes.
  func didGrow(to size: Int)
  /// Writes zeroes, durably, where nothing of an allocated range has ever reached the disk, so that later writes to it
  /// change no block's state; else does nothing. Leaves none of it in the page cache. What was written to the range
  /// before must have been durable at once, as all of the ring is.
  func prepare(at offset: Int, count: Int) -> Int32
  /// A private mapping of a range, the caller's to unmap; `nil` where there is none.
  func mapPrivately(at offset: Int, count: Int) -> UnsafeMutableRawPointer?
}

extension JournalFile {
  package func prepare(at offset: Int, count: Int) -> Int32 { 0 }
  package func mapPrivately(at offset: Int, count: Int) -> UnsafeMutableRawPointer? { nil }
}

/// A file of the system. Does not own the descriptor.
final class SystemJournalFile: JournalFile {
  private let fd: Int32
  init(_ fd: Int32) { self.fd = fd }

  func read(_ buffer: UnsafeMutableRawBufferPointer, at offset: Int) -> Int32 {
    let n = SystemCall.read(fd, buffer, at: offset)
    return n < 0 ? Int32(n) : n == buffer.count ? 0 : -EIO
  }
  func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) -> Int32 {
    SystemCall.write(fd, bytes, at: offset)
  }
  func writeDurably(_ bytes: UnsafeRawBufferPointer, at offset: Int) -> Int32 {
    SystemCall.writeDurably(fd, bytes, at: offset)
  }
  func startWriting(at offset: Int, count: Int) { nvm_start_writing(fd, UInt64(offset), UInt64(count)) }
  func sync() -> Int32 { SystemCall.syncData(fd) }
  func didGrow(to size: Int) {}
  func prepare(at offset: Int, count: Int) -> Int32 {
    guard nvm_is_unwritten(fd, UInt64(offset), UInt64(count)) == 1 else { return 0 }
    let zeroes = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 4096)
    defer { zeroes.deallocate() }
    zeroes.initializeMemory(as: UInt8.self, repeating: 0)
    let result = SystemCall.writeDurably(fd, UnsafeRawBufferPointer(zeroes), at: offset)
    // What was written in bulk is written back in bulk, whatever part of it changes.
    if result == 0 { nvm_drop_cached(fd, UInt64(offset), UInt64(count)) }
    return result
  }
  func mapPrivately(at offset: Int, count: Int) -> UnsafeMutableRawPointer? {
    SystemCall.mapPrivately(fd, offset, count)
  }
}
