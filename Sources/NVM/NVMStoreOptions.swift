public import NVMRegion
public import NVMalloc
import NVMBTree

/// How a store is created or opened.
public struct NVMStoreOptions: Sendable {
  /// Which medium to drive the file as. By default what the file system offers: persistent memory where it is,
  /// else an ordinary file with a journal.
  public var media: RegionOptions.MediaChoice = .automatic
  /// Whether the file may be changed.
  public var access: RegionOptions.Access = .readWrite
  /// The size of a new file, in bytes; really allocated. It grows as it fills. Default: 64 MiB.
  public var initialSize: Int = 64 << 20
  /// The most the file may grow to, in bytes; `nil`: as far as the disk goes.
  public var maximumSize: Int?
  /// The least the file grows by when it is full, in bytes; an eighth of its size where that is more.
  public var growthIncrement: Int = 16 << 20
  /// How long a freed block rests before it is handed out again, which spreads wear.
  public var quarantine: QuarantinePolicy = .quarantine(.milliseconds(200))
  /// Which of the blocks that may be handed out is; `.leastAllocated` needs ``countsWear``.
  public var placement: PlacementPolicy = .automatic
  /// Counts how often each line is written back and allocated: see ``RegionOptions/countsWear``.
  public var countsWear = false
  /// Check the checksums of leaves and of long keys and values on every read, not only in `verify()`: see
  /// ``TreeOptions/verifiesReads``.
  public var verifiesReads = false
  /// Protection from stray writes; `nil` for what the environment variable `NVM_PROTECTION` says, and none where it is
  /// not set. See ``RegionProtection``.
  public var protection: RegionProtection?
  /// Read what other threads have changed before it is durable: on a journaled file, and what was changed under persist
  /// groups. A crash may then take back what was read. Default: such a read waits for the disk, or settles the change.
  public var readsAhead = false
  /// Bytes of the journal that a new file gets where it is a journaled one, on top of its size; `nil`: as large as
  /// the file at first, from 1 MiB to 64 MiB. See ``RegionOptions/journalSize``.
  public var journalSize: Int?
  /// Permission bits of a new file.
  public var permissions: UInt32 = 0o644

  package var geometry = HeapGeometry()
  package var treeOptions: TreeOptions?

  public init() {}

  public init(
    media: RegionOptions.MediaChoice = .automatic, access: RegionOptions.Access = .readWrite,
    initialSize: Int = 64 << 20
  ) {
    self.media = media
    self.access = access
    self.initialSize = initialSize
  }

  var region: RegionOptions {
    var options = RegionOptions(media: media, access: access)
    options.maximumSize = maximumSize
    options.permissions = permissions
    options.countsWear = countsWear
    options.protection = protection
    options.journalSize = journalSize
    return options
  }
  var heap: HeapOptions {
    var options = HeapOptions()
    options.quarantine = quarantine
    options.placement = placement
    options.growthIncrement = growthIncrement
    options.geometry = geometry
    return options
  }
  var tree: TreeOptions {
    var options = treeOptions ?? TreeOptions()
    options.verifiesReads = verifiesReads
    options.readsAhead = readsAhead
    return options
  }
  /// The catalogue's entries decide what is believed of all else: always checked.
  var catalogue: TreeOptions {
    var options = tree
    options.verifiesReads = true
    return options
  }
}
