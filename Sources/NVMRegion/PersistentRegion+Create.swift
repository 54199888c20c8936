import CNVM
import Glibc

extension PersistentRegion {
  /// The least size of a region: the superblocks and one page.
  public static let minimumSize = SuperblockLayout.headerSize + 4096

  /// Creates a region file that appears at `path` complete or not at all.
  ///
  /// The file is allocated, mapped and initialised without a name and linked to `path` last; a crash before
  /// leaves nothing behind. Where the file system has no unnamed files, a temporary name beside the path is
  /// used, which a crash may leave (`.NAME.nvm-new-…`).
  ///
  /// - Parameters:
  ///   - path: where to create it; must not exist.
  ///   - size: bytes, rounded up to 4096. Really allocated, so that a full disk is an error here and
  ///     never a fault later.
  ///   - initialize: runs before the file gets its name, for instance to format a heap. What it made
  ///     durable is there when the file is.
  /// - Throws: `.alreadyExists`, `.notFound` (directory), `.permissionDenied`, `.readOnlyFileSystem`,
  ///   `.diskFull`, `.invalidArgument`, `.outOfMemory`, whatever `initialize` throws. Nothing is left behind.
  public static func create(
    at path: String, size: Int, options: RegionOptions = RegionOptions(),
    initialize: (PersistentRegion) throws(NVMError) -> Void = { (_) throws(NVMError) in }
  ) throws(NVMError) -> PersistentRegion {
    guard size >= minimumSize, size <= SuperblockLayout.largestSize else {
      throw NVMError(
        code: .invalidArgument,
        message: "A region of \(size) bytes cannot be made: the size must be at least \(minimumSize) bytes "
          + "and at most \(SuperblockLayout.largestSize).",
        path: path)
    }
    guard options.access == .readWrite else {
      throw NVMError(
        code: .invalidArgument, message: "A file cannot be created read-only: create it, close it, open it.",
        path: path)
    }
    try checkPath(path)
    let size = (size + 4095) & ~4095
    let file = try NewFile.make(path, permissions: options.permissions)
    let region: PersistentRegion
    do throws(NVMError) {
      try FileLock.acquire(file.fd, exclusive: true, path: path)
      let journal = try journalSize(file.fd, size: size, options, path: path)
      let allocated = SystemCall.allocate(file.fd, 0, size + journal)
      if allocated < 0 { throw allocationError(-allocated, size: size + journal, path: path) }
      var superblock = Superblock(
        uuid: .random(), size: UInt64(size + journal), payload: UInt64(SuperblockLayout.headerSize + journal),
        media: 0)
      if journal > 0 {
        superblock.journalOffset = UInt64(SuperblockLayout.headerSize)
        superblock.journalSize = UInt64(journal)
      }
      region = try map(
        file.fd, path: path, superblock: superblock, newestCopy: 1, wasClean: true, options: options)
    } catch {
      Glibc.close(file.fd)
      file.discard()
      throw error
    }
    // The region owns the descriptor from here on.
    do throws(NVMError) {
      try region.formatSuperblocks()
      try initialize(region)
      try region.acknowledge()
      try file.publish(as: path)
    } catch {
      region.close(markClean: false)
      file.discard()
      throw error
    }
    return region
  }

  /// Opens the file at `path`, or creates it with `size` bytes where there is none.
  public static func openOrCreate(
    at path: String, size: Int, options: RegionOptions = RegionOptions(),
    initialize: (PersistentRegion) throws(NVMError) -> Void = { (_) throws(NVMError) in }
  ) throws(NVMError) -> PersistentRegion {
    do throws(NVMError) {
      return try open(at: path, options: options)
    } catch {
      guard error.code == .notFound, options.access == .readWrite else { throw error }
    }
    do throws(NVMError) {
      return try create(at: path, size: size, options: options, initialize: initialize)
    } catch {
      // Another process was quicker.
      guard error.code == .alreadyExists else { throw error }
      return try open(at: path, options: options)
    }
  }

  /// Bytes of the journal that a new file gets; 0 for none.
  private static func journalSize(
    _ fd: Int32, size: Int, _ options: RegionOptions, path: String
  ) throws(NVMError) -> Int {
    switch options.media {
    case .emulated, .inPlaceFile: return 0
    case .journaledFile: break
    case .automatic: if isMemoryForced || nvm_is_dax(fd) == 1 { return 0 }
    }
    guard let wanted = options.journalSize else {
      return min(max(size, 1 << 20), JournalLayout.defaultSize) & ~4095
    }
    let least = JournalLayout.minimumSize
    guard wanted >= least, wanted <= JournalLayout.maximumSize else {
      throw NVMError(
        code: .invalidArgument,
        message: "A journal of \(wanted) bytes cannot be made: it has \(least) bytes at least and "
          + "\(JournalLayout.maximumSize) at most.", path: path)
    }
    return (wanted + 4095) & ~4095
  }

  /// Writes the first superblocks of a fresh region: both copies valid, incarnation 1, not clean.
  func formatSuperblocks() throws(NVMError) {
    let media = media.rawValue
    try state.withLock { (state) throws(NVMError) in
      try updateSuperblock(&state) {
        $0.media = media
        $0.incarnation = 1
        $0.isJournalInUse = media == RegionMedia.journaledFile.rawValue
      }
    }
  }

  static func allocationError(_ error: Int32, size: Int, path: String) -> NVMError {
    switch error {
    case ENOSPC, EDQUOT:
      NVMError(
        code: .diskFull,
        message: "The file system has no room for \(size) bytes. Free some space or choose a smaller size; "
          + "nothing was changed.",
        path: path, errno: error)
    case EFBIG:
      NVMError(
        code: .diskFull,
        message: "A file of \(size) bytes is larger than the process or the file system allows (ulimit -f). "
          + "Nothing was changed.",
        path: path, errno: error)
    case EOPNOTSUPP:
      NVMError(
        code: .unsupported,
        message: "The file system cannot allocate space ahead. Choose another one.", path: path, errno: error)
    default:
      NVMError(code: .ioFailure, message: "Allocating \(size) bytes failed.", path: path, errno: error)
    }
  }
}

/// A file that has no name yet.
private struct NewFile {
  var fd: Int32
  var temporaryName: String?

  static func make(_ path: String, permissions: UInt32) throws(NVMError) -> NewFile {
    let parent = directory(of: path)
    var existing = stat()
    if lstat(path, &existing) == 0 {
      if existing.st_mode & S_IFMT == S_IFDIR {
        throw NVMError(code: .notAFile, message: "This is a directory. Give the path of a file.", path: path)
      }
      throw NVMError(
        code: .alreadyExists, message: "A file exists here already. Open it, or choose another path.",
        path: path)
    }
    guard errno == ENOENT else { throw PersistentRegion.openError(errno, path: path, creating: true) }
    let unnamed = SystemCall.openUnnamed(parent, permissions)
    if unnamed >= 0 { return NewFile(fd: unnamed, temporaryName: nil) }
    guard unnamed == -EOPNOTSUPP || unnamed == -EISDIR || unnamed == -EINVAL else {
      throw PersistentRegion.openError(-unnamed, path: path, creating: true)
    }
    let name = path.split(separator: "/", omittingEmptySubsequences: true).last ?? "region"
    let temporary = "\(parent)/.\(name).nvm-new-\(getpid())-\(UInt32.random(in: 0 ... .max))"
    let fd = SystemCall.open(temporary, O_RDWR | O_CREAT | O_EXCL, permissions)
    guard fd >= 0 else { throw PersistentRegion.openError(-fd, path: path, creating: true) }
    return NewFile(fd: fd, temporaryName: temporary)
  }

  /// Makes the content durable, then the name: the link is the atomic step.
  func publish(as path: String) throws(NVMError) {
    var result = SystemCall.sync(fd)
    if result == 0 {
      if let temporaryName {
        result = SystemCall.link(temporaryName, path)
        if result == 0 { unlink(temporaryName) }
      } else {
        result = SystemCall.link(fd, path)
      }
    }
    if result == -EEXIST {
      throw NVMError(
        code: .alreadyExists, message: "A file appeared here meanwhile. Open it, or choose another path.",
        path: path)
    }
    if result == 0 {
      result = SystemCall.syncDirectory(directory(of: path))
      if result < 0 { unlink(path) }
    }
    if result == -ENOSPC || result == -EDQUOT || result == -EACCES || result == -EPERM {
      throw PersistentRegion.openError(-result, path: path, creating: true)
    }
    if result < 0 {
      throw NVMError(
        code: .ioFailure, message: "The new file could not be made durable.", path: path, errno: -result)
    }
  }

  /// After a failure: an unnamed file vanishes with its descriptor, which the region may have closed.
  func discard() {
    if let temporaryName { unlink(temporaryName) }
  }
}
