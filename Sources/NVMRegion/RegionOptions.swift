/// What a region lies on, and so what makes its bytes durable. Shown as ``PersistentRegion/media``.
public enum RegionMedia: UInt32, Sendable, CustomStringConvertible {
  /// Persistent memory mapped with `MAP_SYNC`: cache-line write-back and a store fence.
  case persistentMemory = 1
  /// The same on a platform that flushes the caches itself when power fails: a store fence alone.
  case autoFlushedPersistentMemory = 2
  /// Ordinary memory (tmpfs, for one) that counts as persistent because the caller says so: driven
  /// exactly as persistent memory. Survives the process, not the machine.
  case emulated = 3
  /// An ordinary file, written in place: `pmem_msync` of the changed pages.
  case inPlaceFile = 4
  /// Memory of a test that records every primitive.
  case simulated = 5
  /// An ordinary file whose changes go to a journal in it first, and to their places later.
  case journaledFile = 6

  public var description: String {
    switch self {
    case .persistentMemory: "persistent memory"
    case .autoFlushedPersistentMemory: "persistent memory with automatic flush"
    case .emulated: "emulated persistent memory"
    case .inPlaceFile: "in-place file"
    case .simulated: "simulated"
    case .journaledFile: "journaled file"
    }
  }
}

/// How a region is created or opened.
public struct RegionOptions: Sendable {
  /// Which medium to drive the file as.
  public enum MediaChoice: Sendable {
    /// Persistent memory where the file system offers it; else a journaled file, or, where the file was made
    /// without a journal, an in-place one. The environment variable `PMEM_IS_PMEM_FORCE=1` counts ordinary memory
    /// as persistent.
    case automatic
    /// Counts ordinary memory as persistent: for tmpfs, development and tests. On a disk this is **not**
    /// durable across power loss.
    case emulated
    /// An ordinary file synced page by page, even where the file system offers more.
    case inPlaceFile
    /// An ordinary file with a journal, even where the file system offers more. The journal is made with the file:
    /// one that was made without cannot be opened so.
    case journaledFile
  }
  /// Whether the file may be changed.
  public enum Access: Sendable {
    /// One process at a time.
    case readWrite
    /// Never writes to the file: what recovery must mend is mended in a private copy. Any number of
    /// readers may share the file while nobody writes.
    case readOnly
  }

  public var media: MediaChoice = .automatic
  public var access: Access = .readWrite
  /// Address space to reserve, in bytes: the most the region can ever grow to while open. Less is taken
  /// where the process may not have so much.
  public var reservation: Int = 1 << 40
  /// The most the file may grow to, in bytes; `nil` for the reservation.
  public var maximumSize: Int?
  /// Protection from stray writes; `nil` for what the environment variable `NVM_PROTECTION` says (`none`, `immediate`,
  /// `deferred`, `deferred:MILLISECONDS`, `keys`), and none where it is not set.
  public var protection: RegionProtection?
  /// Counts how often each 64-byte line is written back and allocated: ``PersistentRegion/wear``. The counts go on from
  /// opening to opening in the file NAME.wear, written at ``PersistentRegion/close()``; a crash loses what came after the
  /// last one. Costs 8 bytes of memory a line and, in the mediated way that all primitives then take, some 50 ns an
  /// operation.
  public var countsWear = false
  /// Permission bits of a created file.
  public var permissions: UInt32 = 0o644

  /// Bytes of the journal that a new file gets for ``MediaChoice/journaledFile``, on top of its size; at least
  /// 24 KiB. `nil`: as large as the file, from 1 MiB to 64 MiB. What it holds bounds the time that an opening after
  /// a crash takes; a larger one writes less to the disk.
  public var journalSize: Int?
  package var journal = JournaledFileMedium.Options()

  public init() {}

  public init(media: MediaChoice, access: Access = .readWrite) {
    self.media = media
    self.access = access
  }
}
