import Glibc

extension PersistentRegion {
  /// From this size on a file does not fit in memory beside what else there is.
  private static let largeFile = MemoryLimit.ofProcess / 2
  static func isLargeFile(_ size: Int) -> Bool { size > largeFile }

  /// Says that from now on reads come at random, as those of a tree do once its leaves were walked at open. Of a file that
  /// does not fit in memory the kernel would read ahead at each fault, sixteen pages for one and more, and give up
  /// pages for them that are wanted. Only advice; no effect on smaller files and on other media.
  package func expectRandomReads() { adviseReads(size: size) }

  /// The same for a file that grows to `size` bytes.
  func adviseReads(size: Int) {
    guard media == .journaledFile || media == .inPlaceFile, Self.isLargeFile(size) else { return }
    madvise(baseAddress, size, MADV_RANDOM)
  }
}
