/// What went wrong, where, and what to do about it: the one error type of every swift-nvm module.
///
/// Printed, it is a sentence for the person who has to act. Programs look at ``code``.
public struct NVMError: Error, Sendable, CustomStringConvertible {
  /// The kind of failure. New kinds may be added in any release: compare, do not switch exhaustively.
  public struct Code: Hashable, Sendable, CustomStringConvertible {
    public let description: String
    init(_ name: String) { description = name }

    /// No file or directory at the path.
    public static let notFound = Code("notFound")
    /// Creating would replace a file that exists.
    public static let alreadyExists = Code("alreadyExists")
    /// The path names a directory or something else that cannot hold a region.
    public static let notAFile = Code("notAFile")
    /// The process may not access the path.
    public static let permissionDenied = Code("permissionDenied")
    /// The file system is mounted read-only.
    public static let readOnlyFileSystem = Code("readOnlyFileSystem")
    /// A change was asked of something that was opened read-only.
    public static let readOnly = Code("readOnly")
    /// The file is not a swift-nvm region.
    public static let notARegion = Code("notARegion")
    /// The file is shorter than its superblock says.
    public static let truncated = Code("truncated")
    /// The file was written by a newer release, or uses a feature that this one does not know.
    public static let newerFormat = Code("newerFormat")
    /// The file was written on a machine of the other byte order.
    public static let foreignByteOrder = Code("foreignByteOrder")
    /// A checksum or a structure on the medium is wrong.
    public static let corrupt = Code("corrupt")
    /// Another process, or another handle of this one, has the file open.
    public static let locked = Code("locked")
    /// The file system has no room.
    public static let diskFull = Code("diskFull")
    /// The heap has no room and may not grow.
    public static let outOfSpace = Code("outOfSpace")
    /// The process cannot have the address space or memory.
    public static let outOfMemory = Code("outOfMemory")
    /// Reading, writing or syncing failed.
    public static let ioFailure = Code("ioFailure")
    /// An earlier sync failed: what was not acknowledged before may be lost; reopen the file.
    public static let poisoned = Code("poisoned")
    /// The handle was closed.
    public static let closed = Code("closed")
    /// The handle was opened before a `fork` and is used in the child.
    public static let forked = Code("forked")
    /// An argument is outside what the call accepts.
    public static let invalidArgument = Code("invalidArgument")
    /// The block is already free.
    public static let doubleFree = Code("doubleFree")
    /// The offset is not one that this heap handed out.
    public static let foreignOffset = Code("foreignOffset")
    /// What is stored has another type or layout than asked for.
    public static let typeMismatch = Code("typeMismatch")
    /// A key or value is larger than supported.
    public static let tooLarge = Code("tooLarge")
    /// This machine or medium cannot do it.
    public static let unsupported = Code("unsupported")
    /// Any other failed system call.
    public static let system = Code("system")
  }

  private final class Storage: Sendable {
    let code: Code
    let message: String
    let path: String?
    let offset: UInt64?
    let errno: Int32?
    let cause: (any Error)?
    init(
      _ code: Code, _ message: String, _ path: String?, _ offset: UInt64?, _ errno: Int32?,
      _ cause: (any Error)?
    ) {
      (self.code, self.message, self.path, self.offset, self.errno, self.cause) =
        (code, message, path, offset, errno, cause)
    }
  }
  // One reference, so that a typed throw fits a register.
  private let storage: Storage

  /// Makes an error.
  /// - Parameter message: a sentence without path and system error (they are appended when printed)
  ///   that says what happened and what to do.
  public init(
    code: Code, message: String, path: String? = nil, offset: UInt64? = nil, errno: Int32? = nil,
    underlying: (any Error)? = nil
  ) {
    storage = Storage(code, message, path, offset, errno, underlying)
  }

  /// The kind of failure.
  public var code: Code { storage.code }
  /// What happened and what to do, without the path.
  public var message: String { storage.message }
  /// The file concerned.
  public var path: String? { storage.path }
  /// The place in the region concerned, in bytes from its start.
  public var offset: UInt64? { storage.offset }
  /// The system's error number, where a system call failed.
  public var errno: Int32? { storage.errno }
  /// The error that caused this one.
  public var underlying: (any Error)? { storage.cause }

  public var description: String {
    var text = ""
    if let path { text += "\(path): " }
    text += message
    if let offset { text += " (at offset \(offset))" }
    if let errno { text += " [\(systemMessage(errno))]" }
    if let underlying { text += " Cause: \(underlying)" }
    return text
  }
}
