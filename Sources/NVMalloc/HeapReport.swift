public import NVMRegion

/// A spot of the heap that is not as it should be.
public struct HeapProblem: Sendable, Equatable, CustomStringConvertible {
  public enum Kind: Sendable, Equatable {
    /// A copy of the heap header does not verify; the other one holds.
    case heapHeader
    /// An extent's head does not verify: up to the next valid one the space is set aside.
    case extentHead
    /// A free extent that was reached only beyond damage: set aside.
    case suspectExtent
    /// A slab's description contradicts itself.
    case slab
    /// A slab's high-water mark does not verify: nothing more is allocated from it.
    case slabMark
    /// A block's header does not verify.
    case blockHeader
    /// A line of the root table does not verify.
    case root
    /// A record of the log was committed and not carried out, or is damaged.
    case log
    /// What memory says of a block differs from its header.
    case disagreement
  }
  public var kind: Kind
  /// Where, in bytes from the region's start.
  public var offset: Offset
  /// The start of the extent it lies in, if any.
  public var extent: Offset?
  /// Bytes concerned.
  public var byteCount: Int
  /// A sentence.
  public var message: String

  init(_ kind: Kind, _ offset: UInt64, extent: UInt64? = nil, byteCount: Int = 0, _ message: String) {
    self.kind = kind
    self.offset = Offset(rawValue: offset)
    self.extent = extent.map { Offset(rawValue: $0) }
    self.byteCount = byteCount
    self.message = message
  }
  public var description: String { "at \(offset): \(message)" }
}

/// What ``PersistentHeap/verify()`` found.
public struct HeapReport: Sendable {
  public var problems: [HeapProblem] = []
  public var extents = 0
  public var slabs = 0
  /// Block headers looked at.
  public var blocks = 0
  public var liveBlocks = 0
  public var liveObjects = 0
  public var roots = 0
  public var lanes = 0
  public var isClean: Bool { problems.isEmpty }
}

/// What opening a heap found and did.
public struct HeapRecovery: Sendable {
  /// Records of the log that were carried out again.
  public var replayedRecords = 0
  /// Extents of the log or of an abandoned table that were given back.
  public var sweptExtents = 0
  /// Extent heads read.
  public var extents = 0
  /// Damage found; the heap opened around it.
  public var problems: [HeapProblem] = []
  /// Wall-clock time of the opening.
  public var duration: Duration = .zero
}
