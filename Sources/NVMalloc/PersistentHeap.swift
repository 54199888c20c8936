import CNVM
import Glibc
public import NVMRegion

/// A crash-consistent, self-checking malloc in a ``PersistentRegion``.
///
/// Blocks are named by offset. Their headers on the medium are the only truth; everything else (free lists,
/// bitmaps, the quarantine) is memory, rebuilt at open. Three levels:
/// - ``allocate(byteCount:alignment:tag:owner:durability:)`` and ``deallocate(_:durability:)``: one fence
///   each; a block that a crash leaves unlinked is found again by its owner token.
/// - ``place(byteCount:alignment:tag:owner:into:initialize:)`` and ``remove(from:)``: allocation and link, or
///   unlink and free, as one step: nothing can leak.
/// - ``publish(_:)``: any number of allocations, frees and word changes as one step.
///
/// Thread safety: every method may be called from any thread; small blocks of different sizes meet no common
/// lock, nor do threads that often use the same size, or large objects, at the same time. Lock order: link lock → extent
/// lock → class lock → table gate → lock of a share of objects; lanes last. None is held while the caller's code runs.
public final class PersistentHeap: @unchecked Sendable {
  /// Where the heap lies.
  public let region: PersistentRegion
  /// Written into each block's header; low 16 bits of the region's incarnation.
  public let epoch: UInt16

  let options: HeapOptions
  let check: HeaderCheck
  let unitShift: Int
  let map: UnitMap
  let shares: ClassShares
  let classCount: Int
  /// The largest block of a slab, header included.
  let largestBlock: Int
  let gate = TableGate()
  let log: LaneLog
  let extents: Lock<ExtentSpace>
  let roots: Lock<RootTable>
  /// A freed block rests this many ticks.
  let restTicks: UInt32
  let control: UnsafeMutableRawPointer
  /// Where the region counts wear.
  let wear: WearCounts?
  let isChoosy: Bool
  /// What opening found and did.
  public internal(set) var recovery = HeapRecovery()
  /// Slabs found at open and not needed since.
  let pending: PendingSlabs
  static let linkLockCount = 64

  /// Words that change while the heap is open, apart from the class so that it has only `let`s.
  enum Control {
    static let tableOffset = 0
    static let unitCount = 8
    static let isClosed = 16
    static let isClockManual = 24
    static let manualTime = 32
    static let damaged = 40
    /// From here on words that change all the time: on a line of their own, since those before are read by every call.
    static let generation = 64
    /// See ``PersistentHeap/isShort(of:)``.
    static let gains = 72
    static let shortUnits = 80
    static let shortGains = 88
    static let shortUntil = 96
    static let searches = 104
    /// How many calls are changing both words of a small block's header.
    static let resizes = 112
    static let linkLocks = 128
    static let size = linkLocks + 8 * linkLockCount
  }

  init(
    region: PersistentRegion, options: HeapOptions, header: HeapHeader, newestCopy: Int, map: UnitMap,
    log: LaneLog,
    roots: RootTable
  ) {
    self.region = region
    self.options = options
    self.map = map
    self.log = log
    pending = PendingSlabs(units: header.unitCount)
    epoch = UInt16(truncatingIfNeeded: region.incarnation)
    check = HeaderCheck(region.uuid)
    unitShift = header.unitShift
    largestBlock = min(8 << header.unitShift, 128 << 10)
    classCount = SizeClasses.count(upTo: largestBlock)
    shares = ClassShares(classCount: classCount, beginningWith: options.shareCount)
    self.roots = Lock(roots)
    restTicks = Self.ticks(options.quarantine)
    wear = region.wearCounts
    isChoosy = options.placement == .leastAllocated && region.wearCounts != nil
    control = .allocate(byteCount: Control.size, alignment: 64)
    control.initializeMemory(as: UInt8.self, repeating: 0, count: Control.size)
    extents = Lock(
      ExtentSpace(
        runs: FreeRuns(map), header: header, newestCopy: newestCopy), isShort: true)
    nvm_store_release(control + Control.tableOffset, header.tableOffset.rawValue)
    nvm_store_release(control + Control.unitCount, UInt64(header.unitCount))
    installDescriber()
  }

  deinit {
    // A closed one has; the region may have another heap by now.
    if nvm_load_relaxed(control + Control.isClosed) == 0 {
      region.setDescriber(nil, context: nil)
      if !region.isReadOnly { region.giveHeapBack() }
    }
    shares.deallocate()
    extents.withLock {
      var slab = $0.spareSlabs
      while let s = slab {
        slab = s.pointee.nextOfClass
        s.deallocate()
      }
      $0.runs.deallocate()
    }
    map.deallocate()
    pending.deallocate()
    control.deallocate()
  }

  // MARK: Places

  @inline(__always)
  var unitCount: Int { Int(truncatingIfNeeded: nvm_load_acquire(control + Control.unitCount)) }
  /// The table entry of a unit. Needs the extent lock, the table gate or the lock of a share of objects.
  @inline(__always)
  func entry(_ unit: Int) -> Offset {
    Offset(rawValue: nvm_load_acquire(control + Control.tableOffset)) + unit &* ExtentEntry.size
  }
  @inline(__always)
  func start(ofUnit unit: Int) -> UInt64 { UInt64(truncatingIfNeeded: unit) &<< UInt64(unitShift) }
  /// Word 0 of a free extent's head.
  func freeWord(_ unit: Int, _ length: Int) -> UInt64 {
    check.extent(.free, length: length, at: start(ofUnit: unit))
  }
  func units(forBytes n: Int) -> Int { max(1, (n &+ (1 << unitShift) &- 1) >> unitShift) }
  func linkLock(_ link: Offset) -> SpinLock {
    let h = Int(truncatingIfNeeded: link.rawValue >> 3 ^ link.rawValue >> 9) & (Self.linkLockCount - 1)
    return SpinLock(control + Control.linkLocks + 8 * h)
  }

  /// What lies before belongs to the region and to the heap's header.
  var heapStart: Offset { region.payloadStart + HeapHeaderLayout.areaSize }

  // MARK: State

  /// Throws unless the heap may be read.
  @inline(__always)
  func checkUsable() throws(NVMError) {
    try region.checkUsable()
    if nvm_load_relaxed(control + Control.isClosed) != 0 { throw closedError() }
  }
  /// Throws unless the heap may be changed.
  @inline(__always)
  func checkWritable() throws(NVMError) {
    try region.checkWritable()
    if nvm_load_relaxed(control + Control.isClosed) != 0 { throw closedError() }
  }
  @inline(never)
  private func closedError() -> NVMError {
    NVMError(code: .closed, message: "The heap was closed. Open it again to use it.", path: region.path)
  }

  /// Ends the use of the heap; the region stays open. Idempotent. Retires the log's lanes once more, so that
  /// a single rotten line cannot bring back a record that was done with.
  public func close() {
    guard nvm_exchange_acqrel(control + Control.isClosed, 1) == 0 else { return }
    region.setDescriber(nil, context: nil)
    guard !region.isReadOnly else { return }
    defer { region.giveHeapBack() }
    // A failure poisons the region, which then is not marked clean: nothing more to do about it here.
    if (try? region.checkWritable()) != nil {
      extents.withLock { _ = zeroStaleHeads(&$0) }
      // Fences.
      try? log.seal()
    }
  }

  // MARK: Time

  /// About milliseconds (2^20 ns).
  private static func ticks(_ policy: QuarantinePolicy) -> UInt32 {
    guard case .quarantine(let duration) = policy else { return 0 }
    let (seconds, attoseconds) = duration.components
    let ns = max(0, Double(seconds) * 1e9 + Double(attoseconds) / 1e9)
    // One for rounding a time down, and the step of the coarse clock.
    var step = timespec()
    clock_getres(CLOCK_MONOTONIC_COARSE, &step)
    return UInt32(min(ns / 1_048_576 + 2 + Double(step.tv_nsec) / 1_048_576, 4e9))
  }

  /// The current tick. A few nanoseconds.
  @inline(__always)
  func now() -> UInt32 {
    if restTicks == 0 { return 0 }
    if nvm_load_relaxed(control + Control.isClockManual) != 0 {
      return UInt32(truncatingIfNeeded: nvm_load_relaxed(control + Control.manualTime) >> 20)
    }
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC_COARSE, &time)
    let ns =
      UInt64(truncatingIfNeeded: time.tv_sec) &* 1_000_000_000 &+ UInt64(truncatingIfNeeded: time.tv_nsec)
    return UInt32(truncatingIfNeeded: ns >> 20)
  }

  /// Replaces the clock by a hand-set one, in nanoseconds: for tests.
  package func setTime(_ nanoseconds: UInt64) {
    nvm_store_release(control + Control.manualTime, nanoseconds)
    nvm_store_release(control + Control.isClockManual, 1)
  }

  // MARK: Errors

  func corrupt(_ message: String, at offset: UInt64) -> NVMError {
    NVMError(code: .corrupt, message: message, path: region.path, offset: offset)
  }
  func noteDamage() { _ = nvm_fetch_add_relaxed(control + Control.damaged, 1) }
}
