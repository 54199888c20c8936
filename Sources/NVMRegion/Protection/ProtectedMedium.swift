import CLibpmem
import CNVM
import Glibc

/// Announces each store, and hands the primitive to the medium below; where there is none, drives cache lines itself.
/// With it the region takes its mediated way, so that without protection nothing is in any path.
final class ProtectedMedium: RegionMedium {
  private let below: (any RegionMedium)?
  /// Whether lines must be written back: not with automatic flush, nor in a private copy.
  private let flushesLines: Bool
  let pages: PageGuard
  /// Whether all it does is to announce stores and to drive cache lines.
  var isAlone: Bool { below == nil && flushesLines }

  init(_ below: (any RegionMedium)?, flushesLines: Bool, pages: PageGuard) {
    self.below = below
    self.flushesLines = flushesLines
    self.pages = pages
  }

  @inline(__always)
  private func storing(_ p: UnsafeMutableRawPointer, _ count: Int, _ body: () -> Void) {
    guard count > 0 else { return }
    nvm_guard_begin(pages.guarding, p, UInt64(count))
    body()
    nvm_guard_end(pages.guarding)
  }

  func attach(base: UnsafeMutableRawPointer, path: String) { below?.attach(base: base, path: path) }

  func store(_ word: UInt64, at p: UnsafeMutableRawPointer) {
    if let below {
      storing(p, 8) { below.store(word, at: p) }
    } else {
      nvm_guard_store(pages.guarding, p, word)
    }
  }
  func storeNontemporal(_ word: UInt64, at p: UnsafeMutableRawPointer) {
    storing(p, 8) {
      if let below {
        below.storeNontemporal(word, at: p)
      } else if flushesLines {
        nvm_store_nontemporal(p, word)
      } else {
        nvm_store_release(p, word)
      }
    }
  }
  func write(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    guard let from = source.baseAddress else { return }
    storing(p, source.count) {
      if let below { below.write(source, at: p) } else { p.copyMemory(from: from, byteCount: source.count) }
    }
  }
  func writeNontemporal(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    guard let from = source.baseAddress else { return }
    storing(p, source.count) {
      if let below {
        below.writeNontemporal(source, at: p)
      } else if flushesLines {
        pmem_memcpy(p, from, source.count, UInt32(PMEM_F_MEM_NONTEMPORAL | PMEM_F_MEM_NODRAIN))
      } else {
        p.copyMemory(from: from, byteCount: source.count)
      }
    }
  }
  func fill(_ byte: UInt8, count: Int, at p: UnsafeMutableRawPointer) {
    storing(p, count) {
      if let below { below.fill(byte, count: count, at: p) } else { memset(p, Int32(byte), count) }
    }
  }

  func flush(_ p: UnsafeMutableRawPointer, count: Int) {
    if let below {
      below.flush(p, count: count)
    } else if flushesLines {
      nvm_flush_range(p, count)
    }
  }
  func order() throws(NVMError) {
    defer { pages.settle() }
    if let below { try below.order() } else { nvm_store_fence() }
  }
  func fence() throws(NVMError) {
    defer { pages.settle() }
    if let below { try below.fence() } else { nvm_store_fence() }
  }

  func flush(line p: UnsafeMutableRawPointer, words mask: UInt8) {
    if let below {
      below.flush(line: p, words: mask)
    } else if flushesLines {
      nvm_flush_line(p)
    }
  }

  var journal: JournaledFileMedium? { below?.journal }
  func writeHeader(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(NVMError) -> Bool {
    try below?.writeHeader(bytes, at: offset) ?? false
  }
  func close(isClean: Bool) throws(NVMError) { try below?.close(isClean: isClean) }
  func sync(_ fd: Int32) -> Int32 { below?.sync(fd) ?? SystemCall.sync(fd) }
  func didGrow(to size: Int) {
    below?.didGrow(to: size)
    nvm_guard_grow(pages.guarding, UInt64(size))
  }
  func willClose() {
    nvm_guard_retire(pages.guarding)
    below?.willClose()
  }
}
