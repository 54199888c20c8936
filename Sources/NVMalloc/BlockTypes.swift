public import NVMRegion

/// What a block holds, so that blocks can be enumerated by kind. Sixteen bits of the caller's choice; 0 says
/// nothing, values from 0xFF00 on belong to swift-nvm.
@frozen public struct BlockTag: RawRepresentable, Hashable, Sendable {
  public var rawValue: UInt16
  @inlinable public init(rawValue: UInt16) { self.rawValue = rawValue }

  /// No tag.
  @inlinable public static var none: BlockTag { BlockTag(rawValue: 0) }
  /// The root record of a tree.
  @inlinable public static var treeRoot: BlockTag { BlockTag(rawValue: 0xFF01) }
  /// An extent of tree nodes.
  @inlinable public static var treeNodes: BlockTag { BlockTag(rawValue: 0xFF02) }
  /// A key or value out of line.
  @inlinable public static var treeRecord: BlockTag { BlockTag(rawValue: 0xFF03) }
  /// Overflow of a lane of the heap's log.
  @inlinable public static var log: BlockTag { BlockTag(rawValue: 0xFF04) }
  /// Overflow of a store's transaction log.
  @inlinable public static var storeLog: BlockTag { BlockTag(rawValue: 0xFF05) }
}

/// Who answers for a block: after a crash its blocks are found again by it. Twenty bits; 0 is nobody.
@frozen public struct OwnerToken: RawRepresentable, Hashable, Sendable {
  public var rawValue: UInt32
  @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }

  /// Nobody.
  @inlinable public static var none: OwnerToken { OwnerToken(rawValue: 0) }
  /// The largest token that fits.
  @inlinable public static var maximum: OwnerToken { OwnerToken(rawValue: 0xF_FFFF) }
}

/// When an allocation or a free takes hold for good.
@frozen public enum Durability: Sendable {
  /// On return: one fence.
  case immediate
  /// Written and flushed by the calling thread; durable at that thread's next fence.
  case deferred
}

/// What a block's header says.
public struct BlockInfo: Sendable, Equatable {
  /// Where the caller's bytes start.
  public var payload: Offset
  /// Bytes that the block has room for.
  public var capacity: Int
  /// Bytes asked for at allocation.
  public var length: Int
  public var tag: BlockTag
  public var owner: OwnerToken
  /// ``PersistentHeap/epoch`` of the opening in which it was allocated.
  public var epoch: UInt16
  /// Whether it is an extent of its own rather than a block of a slab.
  public var isLarge: Bool
}

/// Space set aside in memory and not yet on the medium: a crash, or ``PersistentHeap/cancel(_:)``, gives it
/// back; a publication makes it a block. Use it once.
public struct Reservation: Sendable {
  /// Where the caller's bytes start.
  public let payload: Offset
  /// Bytes asked for.
  public let length: Int
  /// Bytes that there is room for.
  public let capacity: Int
  let place: BlockPlace
  /// Word 1 of the header to be.
  let word1: UInt64
  /// Low half of word 0 of the header to be (of a slab's block).
  let low: UInt32
}

/// Where a block stands in the heap's memory.
struct BlockPlace: @unchecked Sendable {
  /// `nil` for a large object.
  var slab: UnsafeMutablePointer<Slab>?
  /// The index in the slab, or the first unit of a large object.
  var index: Int
}
