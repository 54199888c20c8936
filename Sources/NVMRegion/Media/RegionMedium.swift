/// The seam for media that are not driven by cache-line instructions: the in-place file, and those that
/// record or journal what the primitives do. The region hands every primitive to the medium, which
/// carries it out.
///
/// Thread safety: all calls may come from any thread. `flush` belongs to the calling thread: only that
/// thread's next `order` or `fence` settles it.
package protocol RegionMedium: AnyObject, Sendable {
  /// Called once, when the region's memory is in place and before any primitive.
  func attach(base: UnsafeMutableRawPointer, path: String)
  /// One aligned word, atomically.
  func store(_ word: UInt64, at p: UnsafeMutableRawPointer)
  /// One aligned word past the cache: durable at the calling thread's next fence without a flush.
  func storeNontemporal(_ word: UInt64, at p: UnsafeMutableRawPointer)
  /// Bytes, without order among the words.
  func write(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer)
  /// Bytes past the cache: durable at the calling thread's next fence without a flush.
  func writeNontemporal(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer)
  func fill(_ byte: UInt8, count: Int, at p: UnsafeMutableRawPointer)
  func flush(_ p: UnsafeMutableRawPointer, count: Int)
  /// Some of the words of the line at `p`, as a mask.
  func flush(line p: UnsafeMutableRawPointer, words mask: UInt8)
  func order() throws(NVMError)
  func fence() throws(NVMError)
  /// Bytes at the start of the file that the medium writes in a way of its own, durably. False: it has none.
  func writeHeader(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(NVMError) -> Bool
  /// The journal that the primitives end in, if one is at the bottom.
  var journal: JournaledFileMedium? { get }
  /// Called once, with the last primitive over. `isClean`: everything flushed is to be in its place.
  func close(isClean: Bool) throws(NVMError)
  /// Syncs the whole file behind the region, whose growth is to be durable. 0 or -errno.
  func sync(_ fd: Int32) -> Int32
  /// The region now has `size` bytes; the new ones read as zero.
  func didGrow(to size: Int)
  /// The mapping goes; stores that come late may still be handed in.
  func willClose()
}

extension RegionMedium {
  package func attach(base: UnsafeMutableRawPointer, path: String) {}
  package func sync(_ fd: Int32) -> Int32 { SystemCall.sync(fd) }
  package func didGrow(to size: Int) {}
  package func willClose() {}
  package func flush(line p: UnsafeMutableRawPointer, words mask: UInt8) { flush(p, count: 64) }
  package func writeHeader(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(NVMError) -> Bool { false }
  package var journal: JournaledFileMedium? { nil }
  package func close(isClean: Bool) throws(NVMError) {}
}

/// One word of an atomic step of several.
package struct LogWord: Equatable {
  package var offset: UInt64
  package var value: UInt64
  package init(offset: UInt64, value: UInt64) { (self.offset, self.value) = (offset, value) }
}
