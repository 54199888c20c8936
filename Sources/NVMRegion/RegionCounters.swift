public import CNVM

/// What the region's primitives did: the same on every run, unlike seconds.
@frozen public struct RegionCounters: Sendable, Equatable {
  /// Calls of `fence` (and the fences of `persist` and `storeDurable`).
  public var fences: UInt64 = 0
  /// Calls of `order`. On cache-line media each is a store fence too.
  public var orders: UInt64 = 0
  /// 64-byte lines whose write-back was started, or that were written past the cache.
  public var lines: UInt64 = 0
  /// Bytes stored.
  public var bytes: UInt64 = 0

  @inlinable public init() {}

  public static func - (a: Self, b: Self) -> Self {
    var r = Self()
    r.fences = a.fences &- b.fences
    r.orders = a.orders &- b.orders
    r.lines = a.lines &- b.lines
    r.bytes = a.bytes &- b.bytes
    return r
  }
}

/// What a few stores and flushes come to, before it is counted.
@frozen @usableFromInline package struct StoreTally {
  @usableFromInline package var bytes: UInt64 = 0
  @usableFromInline package var lines: UInt64 = 0
  @inlinable @inline(__always) package init() {}
}

/// One line of counters for each thread slot; slot 0, which threads may share, is updated atomically.
@usableFromInline @frozen struct CounterTable: @unchecked Sendable {
  @usableFromInline enum Field: Int {
    case fences = 0
    case orders = 8
    case lines = 16
    case bytes = 24
  }
  @usableFromInline let base: UnsafeMutableRawPointer

  init() {
    let size = Int(NVM_THREAD_SLOTS) * 64
    base = .allocate(byteCount: size, alignment: 64)
    base.initializeMemory(as: UInt8.self, repeating: 0, count: size)
  }
  func deallocate() { base.deallocate() }

  @inlinable @inline(__always)
  func add(_ n: UInt64, _ field: Field) {
    let slot = nvm_thread_slot()
    let p = base + (Int(slot) &* 64 &+ field.rawValue)
    if slot != 0 {
      nvm_store_relaxed(p, nvm_load_relaxed(p) &+ n)
    } else {
      _ = nvm_fetch_add_relaxed(p, n)
    }
  }

  /// The calling thread's counters, where it has some of its own.
  @inlinable @inline(__always) var row: UnsafeMutableRawPointer? {
    let slot = nvm_thread_slot()
    return slot == 0 ? nil : base + Int(slot) &* 64
  }
  @inlinable @inline(__always)
  func add(_ tally: StoreTally, to row: UnsafeMutableRawPointer) {
    let bytes = row + Field.bytes.rawValue
    nvm_store_relaxed(bytes, nvm_load_relaxed(bytes) &+ tally.bytes)
    let lines = row + Field.lines.rawValue
    nvm_store_relaxed(lines, nvm_load_relaxed(lines) &+ tally.lines)
  }
  @inlinable @inline(__always)
  func add(_ tally: StoreTally) {
    if let row {
      add(tally, to: row)
    } else {
      _ = nvm_fetch_add_relaxed(base + Field.bytes.rawValue, tally.bytes)
      _ = nvm_fetch_add_relaxed(base + Field.lines.rawValue, tally.lines)
    }
  }
  /// Counts a fence that is over.
  @inlinable @inline(__always)
  func noteFence(in row: UnsafeMutableRawPointer) {
    nvm_store_relaxed(row + Field.fences.rawValue, nvm_load_relaxed(row + Field.fences.rawValue) &+ 1)
    nvm_store_relaxed(row + Self.settledLines, nvm_load_relaxed(row + Field.lines.rawValue))
  }

  /// Lines that the slot had flushed at its last fence or order. Not kept for slot 0.
  @usableFromInline static let settledLines = 32

  /// Notes that nothing this thread has flushed is under way.
  @inlinable @inline(__always)
  func noteSettled() {
    let p = base + Int(nvm_thread_slot()) &* 64
    nvm_store_relaxed(p + Self.settledLines, nvm_load_relaxed(p + Field.lines.rawValue))
  }
  /// Whether this thread has flushed nothing since its last fence or order. `false` also where that is not known.
  var isSettled: Bool {
    let slot = nvm_thread_slot()
    let p = base + Int(slot) * 64
    return slot != 0 && nvm_load_relaxed(p + Self.settledLines) == nvm_load_relaxed(p + Field.lines.rawValue)
  }

  /// Fences and orders that a slot has completed.
  @inlinable @inline(__always)
  func completed(slot: Int32) -> UInt64 {
    let p = base + Int(slot) * 64
    return nvm_load_acquire(p + Field.fences.rawValue) &+ nvm_load_acquire(p + Field.orders.rawValue)
  }

  var total: RegionCounters {
    var r = RegionCounters()
    for slot in 0..<Int(NVM_THREAD_SLOTS) { r.add(at: base + slot * 64) }
    return r
  }
  var currentThread: RegionCounters {
    var r = RegionCounters()
    r.add(at: base + Int(nvm_thread_slot()) * 64)
    return r
  }
}

extension RegionCounters {
  fileprivate mutating func add(at p: UnsafeMutableRawPointer) {
    fences &+= nvm_load_relaxed(p)
    orders &+= nvm_load_relaxed(p + 8)
    lines &+= nvm_load_relaxed(p + 16)
    bytes &+= nvm_load_relaxed(p + 24)
  }
}
