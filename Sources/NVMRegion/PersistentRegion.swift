public import CNVM
import Glibc

/// A file mapped into memory whose bytes survive crashes: the bottom layer of swift-nvm.
///
/// The mapping is changed only through the primitives (`store`, `write`, `fill`, `copy`) and made durable
/// with `flush`, `order`, `fence` and `persist`. A change is certain to survive a crash only when it was
/// flushed **and** then fenced by the same thread; a store that is never flushed may be lost, at ``close()``
/// too. After a crash each 64-byte line holds its content after some prefix of the stores made to it;
/// lines are independent; an aligned word stored with ``store(_:at:)`` is never torn. (An in-place file
/// gives the same promise with 512-byte sectors.)
///
/// Thread safety: all primitives may be called from any thread; two threads that store to the same word
/// need a lock of their own. `flush` … `fence` must not span an `await`, since a fence settles only what its
/// own thread flushed.
///
/// A stray write through a raw pointer into the mapping is stopped where ``RegionOptions/protection`` is on; otherwise
/// checksums of the layers above find it later. A file shrunk by somebody else while it is open ends the process with
/// SIGBUS, as with every mapping.
public final class PersistentRegion: @unchecked Sendable {
  /// The file, as given.
  public let path: String
  /// The same from the root on, whatever the working directory is later.
  let place: String
  /// What the region lies on.
  public let media: RegionMedia
  /// How its bytes are protected from stray writes.
  public let protection: RegionProtection
  /// Whether it was opened without the right to change the file. Stores then go to a private copy.
  public let isReadOnly: Bool
  /// Whether the file had been closed properly before this opening (a new one counts as such).
  public let wasCleanlyClosed: Bool
  /// The file's identity, given at creation.
  public let uuid: RegionUUID
  /// Counts the writable openings of the file; this one's number.
  public let incarnation: UInt64
  /// The address of offset 0. Stays the same while the region is open, through growth too.
  public let baseAddress: UnsafeMutableRawPointer
  /// Where the user's bytes start; what lies before is the region's own.
  public let payloadStart: Offset
  /// The most the region can grow to while open, in bytes.
  public let maximumSize: Int

  /// How primitives are carried out.
  @usableFromInline enum Mode: UInt8 {
    case cacheLine
    case autoFlush
    case mediated
    /// By a medium that appends what is flushed to one journal.
    case journaled
  }
  @usableFromInline let mode: Mode
  @inlinable @inline(__always) var isMediated: Bool { mode.rawValue >= Mode.mediated.rawValue }
  @usableFromInline let counterTable: CounterTable
  @usableFromInline let control: Control
  let medium: (any RegionMedium)?
  /// Where protection is on.
  let pages: PageGuard?
  /// The guard of `pages`, where nothing but protection stands between the primitives and cache lines: what
  /// `ProtectedMedium` does for them is then done in place.
  let guarded: UnsafeMutablePointer<nvm_guard>?
  let groups = GroupRegistry()
  @usableFromInline let groupRecords: UnsafeMutableRawPointer
  /// The medium, where it is a journal.
  package let journal: JournaledFileMedium?
  /// Where wear is counted.
  package let wearCounts: WearCounts?
  let space: AddressSpace
  let state: Lock<State>

  /// Words that hot paths read: allocated apart so that the class has only `let`s.
  @usableFromInline @frozen struct Control: @unchecked Sendable {
    @usableFromInline let words: UnsafeMutableRawPointer
    init(size: Int) {
      words = .allocate(byteCount: 64, alignment: 64)
      words.initializeMemory(as: UInt8.self, repeating: 0, count: 64)
      nvm_store_release(words, UInt64(size))
      nvm_store_release(words + 16, UInt64(nvm_fork_generation()))
    }
    /// Bytes mapped.
    @usableFromInline var size: UnsafeMutableRawPointer { words }
    /// 0 while usable; else bit 0 closed, bit 1 poisoned.
    @usableFromInline var status: UnsafeMutableRawPointer { words + 8 }
    @usableFromInline var forkGeneration: UnsafeMutableRawPointer { words + 16 }
    /// 1 while a heap is open on the region.
    var heap: UnsafeMutableRawPointer { words + 24 }
  }
  static let closedBit: UInt64 = 1
  static let poisonedBit: UInt64 = 2

  struct State {
    var fd: Int32
    var superblock: Superblock
    /// The copy that holds `superblock`.
    var newestCopy: Int
    var failure: NVMError?
    var isClosed = false
  }

  init(
    path: String, media: RegionMedia, isReadOnly: Bool, wasCleanlyClosed: Bool, space: AddressSpace,
    mapped: Int,
    maximumSize: Int, superblock: Superblock, newestCopy: Int, fd: Int32, medium: (any RegionMedium)?,
    protection: RegionProtection, wearCounts: WearCounts? = nil
  ) {
    self.path = path
    place = absolutePath(path)
    self.media = media
    self.isReadOnly = isReadOnly
    self.wasCleanlyClosed = wasCleanlyClosed
    self.space = space
    self.maximumSize = max(mapped, min(maximumSize, space.size) & ~4095)
    self.medium = medium
    self.protection = protection
    pages = (medium as? ProtectedMedium)?.pages
    guarded = (medium as? ProtectedMedium).flatMap { $0.isAlone ? $0.pages.guarding : nil }
    self.wearCounts = wearCounts ?? (medium as? LineCountingMedium)?.counts
    uuid = superblock.uuid
    incarnation = superblock.incarnation
    baseAddress = space.base
    payloadStart = Offset(rawValue: superblock.payload)
    counterTable = CounterTable()
    control = Control(size: mapped)
    groupRecords = groups.records.base
    journal = medium?.journal
    mode =
      if isReadOnly && medium == nil { .autoFlush } else if medium != nil {
        journal == nil ? .mediated : .journaled
      } else if media
        == .autoFlushedPersistentMemory
      { .autoFlush } else { .cacheLine }
    state = Lock(State(fd: fd, superblock: superblock, newestCopy: newestCopy))
    medium?.attach(base: space.base, path: path)
  }

  deinit {
    close(markClean: false)
    space.release()
    counterTable.deallocate()
    control.words.deallocate()
  }

  /// Bytes in the region, superblock included. Grows only.
  @inlinable public var size: Int { Int(truncatingIfNeeded: nvm_load_acquire(control.size)) }

  /// The first offset past the region.
  @inlinable public var end: Offset { Offset(size) }

  /// Whether `count` bytes at `offset` lie within the payload. O(1).
  @inlinable public func contains(_ offset: Offset, count: Int) -> Bool {
    let size = self.size
    return offset >= payloadStart && count >= 0 && count <= size && offset.rawValue <= UInt64(size &- count)
  }

  /// The address of an offset. Valid while the region is open.
  @inlinable @inline(__always)
  public func pointer(to offset: Offset) -> UnsafeMutableRawPointer {
    baseAddress + Int(truncatingIfNeeded: offset.rawValue)
  }

  /// Throws unless the region is open, unharmed, and used by the process that opened it. O(1), a few
  /// instructions: the layers above call it at the start of every operation.
  @inlinable @inline(__always)
  public func checkUsable() throws(NVMError) {
    if nvm_load_relaxed(control.status) != 0
      || UInt64(nvm_fork_generation()) != nvm_load_relaxed(control.forkGeneration)
    {
      throw unusableError()
    }
  }

  /// As ``checkUsable()``, and throws `.readOnly` where the file may not be changed.
  @inlinable @inline(__always)
  public func checkWritable() throws(NVMError) {
    try checkUsable()
    if isReadOnly { throw readOnlyError() }
  }

  @usableFromInline @inline(never)
  func readOnlyError() -> NVMError {
    NVMError(
      code: .readOnly, message: "The file was opened read-only. Open it for writing to change it.", path: path
    )
  }

  @usableFromInline @inline(never)
  func unusableError() -> NVMError {
    // The lock is not for a forked child, in which its holder may be missing.
    if UInt64(nvm_fork_generation()) == nvm_load_relaxed(control.forkGeneration),
      let error = state.withLock({ unusableError($0) })
    {
      return error
    }
    return NVMError(
      code: .forked,
      message: "The file was opened before fork() and belongs to the parent process. Open it in the child "
        + "after the parent has closed it.",
      path: path)
  }

  /// Why the region cannot be used by its own process any more, if so.
  func unusableError(_ state: borrowing State) -> NVMError? {
    if state.isClosed {
      return NVMError(code: .closed, message: "The file was closed. Open it again to use it.", path: path)
    }
    guard let failure = state.failure else { return nil }
    return NVMError(
      code: .poisoned,
      message:
        "An earlier write to the disk failed, so nothing more is written. Close the file, see to the disk "
        + "and open it again.",
      path: path, underlying: failure)
  }

  /// Notes that a heap is open on the region: `false` where one is already.
  package func takeHeap() -> Bool { nvm_compare_exchange(control.heap, 0, 1) }
  package func giveHeapBack() { nvm_store_release(control.heap, 0) }

  /// Remembers the first failure of the medium; from then on every call throws.
  package func poison(_ error: NVMError) {
    // Nothing more gets into the journal, an open atomic step included.
    journal?.poison(error)
    state.withLock { poison(&$0, error) }
  }

  func poison(_ state: inout State, _ error: NVMError) {
    if state.failure == nil { state.failure = error }
    nvm_store_release(control.status, nvm_load_acquire(control.status) | Self.poisonedBit)
  }

  /// What the primitives did since opening, over all threads. O(number of thread slots); approximate
  /// while other threads are at work.
  public var counters: RegionCounters { counterTable.total }
  /// The same for the calling thread (and earlier threads that had its slot). Exact, unless more than 511
  /// threads are alive: those beyond share one count.
  public var threadCounters: RegionCounters { counterTable.currentThread }

  /// The write-back instruction in use on cache-line media: "clwb", "clflushopt", …
  public static var flushInstruction: String {
    switch nvm_flush_instruction() {
    case Int32(NVM_FLUSH_CLWB.rawValue): "clwb"
    case Int32(NVM_FLUSH_CLFLUSHOPT.rawValue): "clflushopt"
    case Int32(NVM_FLUSH_DC_CVAP.rawValue): "dc cvap"
    case Int32(NVM_FLUSH_DC_CVAC.rawValue): "dc cvac"
    default: "clflush"
    }
  }
}
