import CLibpmem
import CNVM
import Glibc

extension PersistentRegion {
  /// Opens an existing region file. Never hangs, never truncates, never repairs what is not asked for.
  ///
  /// A file that a crash left is opened like any other: the region itself needs no recovery beyond choosing
  /// the valid superblock, and carrying out what stands in the journal, if it has one. O(journal).
  ///
  /// - Throws: `.notFound`, `.notAFile`, `.permissionDenied`, `.readOnlyFileSystem`, `.locked`, `.notARegion`,
  ///   `.truncated`, `.newerFormat`, `.foreignByteOrder`, `.corrupt`, `.outOfMemory`, `.ioFailure`; `.diskFull` for
  ///   a sparse copy.
  public static func open(at path: String, options: RegionOptions = RegionOptions()) throws(NVMError)
    -> PersistentRegion
  {
    try checkPath(path)
    let writable = options.access == .readWrite
    let fd = SystemCall.open(path, (writable ? O_RDWR : O_RDONLY) | O_NONBLOCK)
    guard fd >= 0 else { throw openError(-fd, path: path, creating: false) }
    let region: PersistentRegion
    do throws(NVMError) {
      try FileLock.acquire(fd, exclusive: writable, path: path)
      let (superblock, copy) = try readSuperblock(fd, path: path)
      if writable, superblock.readOnlyCompatible & ~SuperblockLayout.knownReadOnlyCompatible != 0 {
        throw NVMError(
          code: .newerFormat,
          message: "The file uses features of a newer release and can only be read by this one. Open it "
            + "read-only.", path: path)
      }
      if writable { try fillHoles(fd, superblock, path: path) }
      if writable, superblock.isJournalInUse {
        try JournalRecovery(JournalArea(SystemJournalFile(fd), superblock, path: path)).replay()
      }
      region = try map(
        fd, path: path, superblock: superblock, newestCopy: copy, wasClean: superblock.isClean,
        options: options)
    } catch {
      Glibc.close(fd)
      throw error
    }
    if writable {
      // Both copies say "in use" before anything else is written.
      do throws(NVMError) {
        try region.markOpened()
      } catch {
        region.close(markClean: false)
        throw error
      }
    }
    return region
  }

  /// A copy may have left out blocks of zeroes. A store to one on a full disk would end the process, or the journal.
  private static func fillHoles(_ fd: Int32, _ superblock: Superblock, path: String) throws(NVMError) {
    var info = stat()
    guard SystemCall.stat(fd, &info) >= 0, UInt64(info.st_blocks) * 512 < superblock.size else { return }
    let result = SystemCall.fillHoles(fd, Int(superblock.size))
    // A file system that compresses has none, and may have no way to take room either.
    guard result == -ENOSPC || result == -EDQUOT else { return }
    throw NVMError(
      code: .diskFull,
      message:
        "The file is a copy without its blocks of zeroes, and the file system has no room for them. Free some "
        + "space, or open it read-only.", path: path, errno: -result)
  }

  func markOpened() throws(NVMError) {
    let media = media.rawValue
    let incarnation = incarnation
    try state.withLock { (state) throws(NVMError) in
      try updateSuperblock(&state) {
        $0.isClean = false
        $0.media = media
        $0.incarnation = incarnation
        $0.isJournalInUse = media == RegionMedia.journaledFile.rawValue
      }
    }
  }

  /// Reads and checks sizes and superblocks before any page is mapped.
  private static func readSuperblock(_ fd: Int32, path: String) throws(NVMError) -> (Superblock, copy: Int) {
    var info = stat()
    let result = SystemCall.stat(fd, &info)
    if result < 0 { throw openError(-result, path: path, creating: false) }
    let kind = info.st_mode & S_IFMT
    guard kind == S_IFREG else {
      throw NVMError(
        code: .notAFile,
        message: kind == S_IFDIR
          ? "This is a directory. Give the path of a file." : "This is not a regular file.", path: path)
    }
    if info.st_size == 0 {
      throw NVMError(
        code: .notARegion, message: "The file is empty. Remove it to create a region here.", path: path)
    }
    return try withUnsafeTemporaryAllocation(byteCount: SuperblockLayout.headerSize, alignment: 8) {
      (buffer) throws(NVMError) in
      let n = SystemCall.read(fd, buffer, at: 0)
      if n < 0 {
        throw NVMError(code: .ioFailure, message: "The file cannot be read.", path: path, errno: Int32(-n))
      }
      let (superblock, copy) = try Superblock.choose(
        UnsafeRawBufferPointer(rebasing: buffer[..<n]), path: path)
      guard superblock.size <= UInt64(info.st_size) else {
        throw NVMError(
          code: .truncated,
          message:
            "The file has \(info.st_size) bytes but held \(superblock.size): its end is missing. Restore "
            + "it from a backup; it was left as it is.", path: path)
      }
      return (superblock, copy)
    }
  }

  /// Maps `superblock.size` bytes of `fd` at the start of a fresh reservation and finds out the medium.
  /// The region takes the descriptor over; on a throw it stays the caller's.
  static func map(
    _ fd: Int32, path: String, superblock: Superblock, newestCopy: Int, wasClean: Bool, options: RegionOptions
  ) throws(NVMError) -> PersistentRegion {
    let readOnly = options.access == .readOnly
    let count = Int(superblock.size)
    // A journal stands in the file, but is nobody's payload.
    let journal = Int(superblock.payload) - SuperblockLayout.headerSize
    let limit = options.maximumSize.map { $0 > Int.max - journal ? Int.max : $0 + journal }
    let wanted = min(options.reservation, limit ?? options.reservation)
    let protection = try RegionProtection.resolve(options.protection)
    let space = try AddressSpace.reserve(wanted: readOnly ? count : wanted, needed: count, path: path)
    do throws(NVMError) {
      let media: RegionMedia
      var medium: (any RegionMedium)?
      if readOnly {
        // What recovery changes stays in private pages.
        media = RegionMedia(rawValue: superblock.media) ?? .inPlaceFile
        try check(SystemCall.map(space.base, count, flags: MAP_PRIVATE | MAP_NORESERVE, fd, 0), path)
        if superblock.isJournalInUse {
          try JournalRecovery(JournalArea(SystemJournalFile(fd), superblock, path: path)).apply(
            to: space.base)
        }
      } else {
        media = try mapWritable(space.base, count, fd, superblock, path: path, choice: options.media)
        if media == .journaledFile {
          medium = try beginJournal(
            JournalArea(SystemJournalFile(fd), superblock, path: path),
            incarnation: superblock.incarnation + 1,
            capacity: space.size, options.journal)
        } else if media == .inPlaceFile {
          // Small pages in the page cache: a sync writes the whole folio that a page belongs to.
          nvm_advise_small_pages(fd, 0, superblock.size)
          medium = InPlaceFileMedium()
        }
      }
      var wearCounts: WearCounts?
      if options.countsWear, !readOnly {
        let counts = try WearCounts(
          // A file may be larger than it is allowed to grow to.
          bytes: max(count, min(space.size, limit ?? space.size)),
          from: LineWear.saved(beside: path, uuid: superblock.uuid, size: count), path: path)
        medium = LineCountingMedium(medium, base: space.base, counts: counts)
        wearCounts = counts
      }
      let flushes = !readOnly && media != .autoFlushedPersistentMemory
      medium = try guarded(
        medium, protection, space: space, mapped: count, path: path, flushesLines: flushes)
      var opened = superblock
      if !readOnly { opened.incarnation += 1 }
      return PersistentRegion(
        path: path, media: media, isReadOnly: readOnly, wasCleanlyClosed: wasClean, space: space,
        mapped: count,
        maximumSize: readOnly ? count : limit ?? Int.max, superblock: opened,
        newestCopy: newestCopy,
        fd: fd, medium: medium, protection: protection, wearCounts: wearCounts)
    } catch {
      space.release()
      throw error
    }
  }

  /// `pmem_is_pmem` denies every mapping not made by libpmem itself, so it is not asked: a mapping with
  /// MAP_SYNC succeeds exactly where stores reach the medium without the page cache.
  private static func mapWritable(
    _ at: UnsafeMutableRawPointer, _ count: Int, _ fd: Int32, _ superblock: Superblock, path: String,
    choice: RegionOptions.MediaChoice
  ) throws(NVMError) -> RegionMedia {
    if choice == .automatic, SystemCall.mapSync(at, count, fd, 0) == 0 {
      return pmem_has_auto_flush() == 1 ? .autoFlushedPersistentMemory : .persistentMemory
    }
    let media: RegionMedia =
      switch choice {
      case .emulated: .emulated
      case .inPlaceFile: .inPlaceFile
      case .journaledFile: .journaledFile
      case .automatic:
        isMemoryForced ? .emulated : superblock.hasJournal ? .journaledFile : .inPlaceFile
      }
    guard media != .journaledFile || superblock.hasJournal else {
      throw NVMError(
        code: .unsupported,
        message:
          "The file was made without a journal. Open it as an in-place file, or copy its content into a "
          + "new one.", path: path)
    }
    let flags = media == .journaledFile ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED
    try check(SystemCall.map(at, count, flags: flags, fd, 0), path)
    return media
  }

  /// Whether the environment says that ordinary memory counts as persistent.
  static var isMemoryForced: Bool { getenv("PMEM_IS_PMEM_FORCE").map { String(cString: $0) } == "1" }

  /// Empties a journal, whose content is home, for a new opening.
  static func beginJournal(
    _ area: JournalArea, incarnation: UInt64, capacity: Int, _ options: JournaledFileMedium.Options
  ) throws(NVMError) -> JournaledFileMedium {
    var header = JournalHeader(incarnation: incarnation, uuid: area.uuid)
    if let old = try area.readHeader().header { header.sequence = old.sequence }
    try area.write(&header)
    return JournaledFileMedium(area, header, capacity: capacity, options: options)
  }

  static func check(_ result: Int32, _ path: String) throws(NVMError) {
    guard result < 0 else { return }
    throw NVMError(
      code: result == -ENOMEM ? .outOfMemory : .system,
      message: "The file cannot be mapped into memory.", path: path, errno: -result)
  }

  /// The system would cut a path at a NUL and open another file.
  static func checkPath(_ path: String) throws(NVMError) {
    guard path.utf8.contains(0) else { return }
    throw NVMError(code: .invalidArgument, message: "A path cannot contain NUL. Check the path.", path: path)
  }

  static func openError(_ error: Int32, path: String, creating: Bool) -> NVMError {
    switch error {
    case ENOENT, ENOTDIR:
      let parent = directory(of: path)
      var info = stat()
      if stat(parent, &info) != 0 || info.st_mode & S_IFMT != S_IFDIR {
        return NVMError(
          code: .notFound, message: "The directory \(parent) does not exist. Create it first.", path: path,
          errno: error)
      }
      return NVMError(
        code: .notFound, message: "There is no such file. Create it, or check the path.", path: path,
        errno: error)
    case EISDIR:
      return NVMError(code: .notAFile, message: "This is a directory. Give the path of a file.", path: path)
    case ENXIO, ENODEV:
      return NVMError(code: .notAFile, message: "This is not a regular file.", path: path, errno: error)
    case EACCES, EPERM:
      return NVMError(
        code: .permissionDenied,
        message: creating
          ? "The process may not create files in \(directory(of: path))."
          : "The process may not open the file for this. Change its permissions or open it read-only.",
        path: path, errno: error)
    case EROFS:
      return NVMError(
        code: .readOnlyFileSystem,
        message: creating
          ? "The file system is mounted read-only. Choose another place."
          : "The file system is mounted read-only. Open the file read-only.", path: path, errno: error)
    case ENOSPC, EDQUOT:
      return NVMError(
        code: .diskFull, message: "The file system has no room. Free some space; nothing was changed.",
        path: path, errno: error)
    case EMFILE, ENFILE:
      return NVMError(
        code: .system, message: "Too many files are open. Close some or raise the limit (ulimit -n).",
        path: path, errno: error)
    default:
      return NVMError(
        code: .system, message: "The file cannot be \(creating ? "created" : "opened").", path: path,
        errno: error)
    }
  }
}
