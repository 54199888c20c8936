import CNVM
import Glibc
import NVMRegion

/// A medium that only carries primitives out: the fast one, on which images are recovered and checked.
/// For one thread at a time.
final class DirectMedium: RegionMedium, @unchecked Sendable {
  private var base: UnsafeMutableRawPointer?
  /// While set, stores go here as well: what the file would hold after a close has unmapped it.
  private var mirror: UnsafeMutableRawPointer?

  func attach(base: UnsafeMutableRawPointer, path: String) {
    self.base = base
    mirror = nil
  }

  /// Copies the region to `buffer` and keeps the copy up to date until the next `attach`.
  func startMirror(_ buffer: UnsafeMutableRawPointer, size: Int) {
    guard let base else { return }
    buffer.copyMemory(from: base, byteCount: size)
    mirror = buffer
  }

  @inline(__always)
  private func reflect(_ p: UnsafeMutableRawPointer, _ count: Int) {
    if let mirror, let base { (mirror + (p - base)).copyMemory(from: p, byteCount: count) }
  }

  func store(_ word: UInt64, at p: UnsafeMutableRawPointer) {
    nvm_store_release(p, word)
    reflect(p, 8)
  }
  func storeNontemporal(_ word: UInt64, at p: UnsafeMutableRawPointer) { store(word, at: p) }
  func write(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    guard let from = source.baseAddress else { return }
    p.copyMemory(from: from, byteCount: source.count)
    reflect(p, source.count)
  }
  func writeNontemporal(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    write(source, at: p)
  }
  func fill(_ byte: UInt8, count: Int, at p: UnsafeMutableRawPointer) {
    memset(p, Int32(byte), count)
    reflect(p, count)
  }
  func flush(_ p: UnsafeMutableRawPointer, count: Int) {}
  func order() throws(NVMError) {}
  func fence() throws(NVMError) {}
}
