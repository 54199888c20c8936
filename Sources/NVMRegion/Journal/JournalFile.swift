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
}
