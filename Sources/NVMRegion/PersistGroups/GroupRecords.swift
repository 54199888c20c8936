import CNVM
import Glibc

// What threads have changed under groups and not fenced, in memory of their own, written without a lock or an atomic
// instruction: such an instruction would wait for the write-backs under way, as a fence does.
//
// Each change of a thread has a number, its *tick*. The thread's area holds
//
//     start ..< end   the lines of changes, each with the tick of the last; that of the last entry is the last of all
//     settled         all up to here were settled by the thread's own fences
//     pending         the first change whose write-back is put off, 0 for none; with all that came after it
//     fences          how many the thread had completed when it last began to write back
//
// and for each counter the tick of its last change by this thread. One fence more than `fences`, whatever it was for,
// and all before `pending` is durable. A waiter of another thread writes the lines back itself, fences, and notes how
// far it came: `cleared`, of one counter or of all.
//
// Which counter last changed a line: a place of a table for each hash of a line, with a word for each of eight threads
// that this thread alone writes; further tables serve further threads.
//
//     writer   fences … entry, end, pending, counter's tick (release) … flush … pending := 0 … one fence more
//     asker    counter's tick (acquire), settled, pending, fences of the area; then how many are completed
//
// What a thread writes here stands behind the change itself in the queue of its stores, so there is little of it.

/// A thread's area.
struct GroupArea: @unchecked Sendable {
  let base: UnsafeMutableRawPointer

  static let counters = GroupRegistry.mostGroups + 1
  /// Twice what may be outstanding: who reads entries while others are added notices in time.
  static let capacity: UInt64 = UInt64(2 * GroupContent.mostRanges)
  private static let marks = 192
  private static let log = (marks + counters * 16 + 63) & ~63
  static let size = log + Int(capacity) * 16
  /// So many lines of trees are written back together.
  static let mostPending: UInt64 = 32

  var pending: UnsafeMutableRawPointer { base + 8 }
  var fences: UnsafeMutableRawPointer { base + 16 }
  var settled: UnsafeMutableRawPointer { base + 24 }
  var start: UnsafeMutableRawPointer { base + 32 }
  var end: UnsafeMutableRawPointer { base + 40 }
  /// The first entry that is pending, if any is. The owner's alone, as is the next.
  var pendingStart: UnsafeMutableRawPointer { base + 48 }
  /// The counter under which the owner's changes of trees go, plus one; 0 for none.
  var current: UnsafeMutableRawPointer { base + 56 }
  /// What other threads have settled, all counters. A line of its own.
  var cleared: UnsafeMutableRawPointer { base + 128 }
  /// The base address of the region, so that a thread's current area is known to be of this one.
  static let owner = 136

  /// The tick of the last change.
  @inline(__always) var tick: UInt64 {
    nvm_load_acquire(entry(nvm_load_acquire(end) &- 1) + 8) & Self.tickMask
  }

  @inline(__always) func mark(_ id: UInt64) -> UnsafeMutableRawPointer {
    base + (Self.marks &+ Int(truncatingIfNeeded: id) &* 16)
  }
  /// What other threads have settled of one counter.
  @inline(__always) func cleared(_ id: UInt64) -> UnsafeMutableRawPointer { mark(id) + 8 }
  @inline(__always) func entry(_ index: UInt64) -> UnsafeMutableRawPointer {
    base + (Self.log &+ Int(truncatingIfNeeded: index & (Self.capacity &- 1)) &* 16)
  }

  /// Lines in one word, so that no reader puts two entries' halves together: 44 bits of the first, 20 of the count.
  static let mostLines: UInt64 = (1 << 20) - 1
  @inline(__always) static func pack(_ first: UInt64, _ count: UInt64) -> UInt64 { first &<< 20 | count }
  @inline(__always) static func lines(_ word: UInt64) -> (first: UInt64, count: UInt64) {
    (word &>> 20, word & mostLines)
  }
  /// A counter and a tick in one word.
  static let tickMask: UInt64 = (1 << 50) - 1
  @inline(__always) static func pack(id: UInt64, tick: UInt64) -> UInt64 { id &<< 50 | tick }
}

/// The areas and tables of a region.
struct GroupRecords: @unchecked Sendable {
  private static let slots = Int(NVM_THREAD_SLOTS)
  private static let tableCount = slots / 8
  private static let places = 2048
  // Highest slot with an area; pointers to areas; pointers to tables; two words for each counter.
  private static let areas = 64
  private static let tables = areas + slots * 8
  private static let words = tables + tableCount * 8
  private static let size = words + GroupArea.counters * 16
  private let base: UnsafeMutableRawPointer

  init() {
    base = .allocate(byteCount: Self.size, alignment: 64)
    base.initializeMemory(as: UInt8.self, repeating: 0, count: Self.size)
  }
  func deallocate() {
    for slot in 1..<Self.slots { if let area = area(slot) { munmap(area.base, GroupArea.size) } }
    for k in 0..<Self.tableCount { if let table = table(k) { munmap(table, Self.places * 64) } }
    base.deallocate()
  }

  @inline(__always) var highest: Int { Int(truncatingIfNeeded: nvm_load_acquire(base)) }
  @inline(__always) func area(_ slot: Int) -> GroupArea? {
    UnsafeMutableRawPointer(
      bitPattern: UInt(nvm_load_acquire(base + (Self.areas &+ slot &* 8)))
    ).map { GroupArea(base: $0) }
  }
  @inline(__always) private func table(_ k: Int) -> UnsafeMutableRawPointer? {
    UnsafeMutableRawPointer(bitPattern: UInt(nvm_load_acquire(base + (Self.tables &+ k &* 8))))
  }
  /// Not 0 where the counter waits for others.
  func hasEarlier(_ id: UInt64) -> UnsafeMutableRawPointer { base + (Self.words + Int(id) * 16) }
  /// On a journal: all changes of the counter lie before it.
  func position(_ id: UInt64) -> UnsafeMutableRawPointer { base + (Self.words + Int(id) * 16 + 8) }

  /// Makes the area and the table of a slot, one thread at a time. False where there is no memory.
  func makeArea(_ slot: Int, _ region: UnsafeMutableRawPointer) -> Bool {
    if area(slot) != nil { return true }
    let k = slot / 8
    if table(k) == nil {
      guard let table = Self.map(Self.places * 64) else { return false }
      nvm_store_release(base + (Self.tables + k * 8), UInt64(UInt(bitPattern: table)))
    }
    guard let area = Self.map(GroupArea.size) else { return false }
    nvm_store_relaxed(area + GroupArea.owner, UInt64(UInt(bitPattern: region)))
    nvm_store_release(base + (Self.areas + slot * 8), UInt64(UInt(bitPattern: area)))
    nvm_store_release(base, UInt64(max(highest, slot)))
    return true
  }
  private static func map(_ size: Int) -> UnsafeMutableRawPointer? {
    let memory = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    return memory == MAP_FAILED ? nil : memory
  }

  // MARK: Changes

  /// Enters the counter as the last one by which the slot changed a line. Calls back for each other counter that
  /// changed it before, or a line of the same hash.
  @inline(__always)
  func enter(_ line: UInt64, _ id: UInt64, slot: Int, _ conflict: (UInt64) -> Void) {
    let place = Int(truncatingIfNeeded: (line &* 0x9E37_79B9_7F4A_7C15) &>> 53) &* 64
    let mine = id &+ 1
    var k = 0
    let last = highest &>> 3
    while k <= last {
      if let table = table(k) {
        let row = table + place
        // Without branches: seldom does another stand there.
        var different: UInt64 = 0
        for way in 0..<8 {
          let other = nvm_load_relaxed(row + way &* 8)
          different |= other == 0 ? 0 : other ^ mine
        }
        if different != 0 {
          for way in 0..<8 {
            let other = nvm_load_relaxed(row + way &* 8)
            if other != 0, other != mine { conflict(other &- 1) }
          }
        }
        if k == slot &>> 3 { nvm_store_release(row + (slot & 7) &* 8, mine) }
      }
      k &+= 1
    }
  }

  /// Notes a change of the calling thread, which owns the area.
  /// - Parameter pending: whether its write-back is put off; else the caller starts it now, with no fence before.
  @inline(__always)
  func note(_ area: GroupArea, _ id: UInt64, first: UInt64, count: UInt64, pending: Bool) {
    let end = nvm_load_relaxed(area.end)
    let last = area.entry(end &- 1)
    let before = nvm_load_relaxed(last + 8)
    let tick = (before & GroupArea.tickMask) &+ 1
    let mark = GroupArea.pack(id: id, tick: tick)
    var start = nvm_load_relaxed(area.start)
    if pending {
      if nvm_load_relaxed(area.pending) == 0 {
        nvm_store_relaxed(area.pendingStart, end)
        nvm_store_release(area.pending, tick)
      }
      start = nvm_load_relaxed(area.pendingStart)
    }
    // Work goes on in the same line, or in the next: the last entry grows, if it is as far as this one. The lines come
    // before the tick, which says that they are there.
    if end != start, before &>> 50 == id {
      let (from, n) = GroupArea.lines(nvm_load_relaxed(last))
      if first >= from, first <= from &+ n, first &- from &+ count <= GroupArea.mostLines {
        nvm_store_release(last, GroupArea.pack(from, max(n, first &- from &+ count)))
        nvm_store_release(last + 8, mark)
        nvm_store_release(area.mark(id), tick)
        return
      }
    }
    let at = area.entry(end)
    nvm_store_release(at, GroupArea.pack(first, count))
    nvm_store_release(at + 8, mark)
    nvm_store_release(area.end, end &+ 1)
    nvm_store_release(area.mark(id), tick)
  }

  /// Forgets what the owner has fenced. Called by it, before it writes further lines back.
  @inline(__always) func advance(_ area: GroupArea, completed: UInt64) {
    guard completed != nvm_load_relaxed(area.fences) else { return }
    let pending = nvm_load_relaxed(area.pending)
    nvm_store_release(area.settled, pending == 0 ? area.tick : pending &- 1)
    nvm_store_release(area.start, nvm_load_relaxed(pending == 0 ? area.end : area.pendingStart))
    // Before anything that is written back from now on is counted as such.
    nvm_store_release(area.fences, completed)
  }

  /// Entries that are not known to be settled by the owner's fences.
  @inline(__always) func outstanding(_ area: GroupArea) -> UInt64 {
    nvm_load_relaxed(area.end) &- nvm_load_relaxed(area.start)
  }
}
