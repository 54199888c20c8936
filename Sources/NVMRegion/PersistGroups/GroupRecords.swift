import CNVM
import Glibc

// What threads have changed under groups and not fenced, in memory of their own, written without a lock or an atomic
// instruction: such an instruction would wait for the write-backs under way, as a fence does.
//
// Each change of a thread has a number, its *tick*: 1, 2, … The thread's area holds
//
//     end        the tick of the last change
//     entries    the lines and the counter of each of the last changes, in a ring: that with tick t in place t - 1
//     settled    all up to here were settled by the thread's own fences
//     pending    the first change whose write-back is put off, 0 for none; with all that came after it
//     fences     how many the thread had completed when it last began to write back
//     active     the counter of the last change
//
// and for each counter but the active one the tick of its last change by this thread; of the active one that is `end`.
// One fence more than `fences`, whatever it was for, and all before `pending` is durable. A waiter of another thread
// writes the lines back itself, fences, and notes how far it came: `cleared`, of one counter or of all.
//
// Which counter last changed a line: a row of a table for each hash of a line, with a word for each of eight threads
// that this thread alone writes; further tables serve further threads.
//
//     writer   fences … active, entry, end, pending (release) … flush … pending := 0 … one fence more
//     asker    active, counter's tick (acquire), settled, pending, fences of the area; then how many are completed
//
// What a thread writes here stands behind the change itself in the queue of its stores, and a change that misses the
// cache holds that queue up: so most changes write two words, an entry and `end`. The layout, and the way that most
// changes of a word take, are in nvm_group.h.

/// A thread's area.
struct GroupArea: @unchecked Sendable {
  let base: UnsafeMutableRawPointer

  /// Twice what may be outstanding: who reads entries while others are added notices in time.
  static let capacity = UInt64(NVM_GROUP_ENTRIES)
  private static let log = Int(NVM_GROUP_LOG)
  static let size = log + Int(capacity) * 8
  /// So many changes of trees are written back together.
  static let mostPending: UInt64 = 32

  var pending: UnsafeMutableRawPointer { base + Int(NVM_GROUP_PENDING) }
  var fences: UnsafeMutableRawPointer { base + Int(NVM_GROUP_FENCES) }
  var settled: UnsafeMutableRawPointer { base + Int(NVM_GROUP_SETTLED) }
  var active: UnsafeMutableRawPointer { base + Int(NVM_GROUP_ACTIVE) }
  var end: UnsafeMutableRawPointer { base + Int(NVM_GROUP_END) }
  /// The counter under which the owner's changes of trees go.
  var current: UnsafeMutableRawPointer { base + Int(NVM_GROUP_CURRENT) }
  /// What other threads have settled, all counters.
  var cleared: UnsafeMutableRawPointer { base + Int(NVM_GROUP_CLEARED) }
  /// The base address of the region, so that a thread's current area is known to be of this one.
  var owner: UnsafeMutableRawPointer { base + Int(NVM_GROUP_OWNER) }

  /// The tick of the last change.
  @inline(__always) var tick: UInt64 { nvm_load_acquire(end) }

  /// The tick of a counter's last change, or a later one; 0 for none.
  @inline(__always) func tick(_ id: UInt64) -> UInt64 {
    if nvm_load_acquire(active) == id {
      let tick = tick
      // Else its owner may have gone on to another counter, whose change would count as this one's.
      if nvm_load_acquire(active) == id { return tick }
    }
    // What the owner leaves it notes first.
    return nvm_load_acquire(mark(id))
  }
  @inline(__always) func mark(_ id: UInt64) -> UnsafeMutableRawPointer {
    base + (Int(NVM_GROUP_MARKS) &+ Int(truncatingIfNeeded: id) &* 16)
  }
  /// What other threads have settled of one counter.
  @inline(__always) func cleared(_ id: UInt64) -> UnsafeMutableRawPointer { mark(id) + 8 }
  /// Of the change with the tick `index + 1`.
  @inline(__always) func entry(_ index: UInt64) -> UnsafeMutableRawPointer {
    base + (Self.log &+ Int(truncatingIfNeeded: index & (Self.capacity &- 1)) &* 8)
  }

  // An entry is one word, so that no reader puts two entries' halves together, and a change writes as little as can be.

  static let mostLines: UInt64 = 1 << NVM_GROUP_COUNT_BITS - 1
  /// Lines of larger regions have no room in an entry: there every change is settled at once.
  static let mostBytes = 1 << (NVM_GROUP_LINE_BITS + 6)
  @inline(__always) static func lines(_ word: UInt64) -> (first: UInt64, count: UInt64) {
    (word &>> UInt64(NVM_GROUP_COUNT_BITS) & ((1 << NVM_GROUP_LINE_BITS) - 1), word & mostLines)
  }
  @inline(__always) static func id(_ word: UInt64) -> UInt64 {
    word &>> UInt64(NVM_GROUP_COUNT_BITS + NVM_GROUP_LINE_BITS)
  }
  /// A stamp is a slot above 50 bits of a tick.
  static let tickMask: UInt64 = (1 << 50) - 1
}

/// The areas and tables of a region.
struct GroupRecords: @unchecked Sendable {
  private static let slots = Int(NVM_THREAD_SLOTS)
  private static let tableCount = slots / Int(NVM_GROUP_THREADS)
  private static let tableSize = Int(NVM_GROUP_ROWS * NVM_GROUP_ROW)
  private static let areas = Int(NVM_GROUPS_AREAS)
  private static let tables = Int(NVM_GROUPS_TABLES)
  /// Two words for each counter.
  private static let words = tables + tableCount * 8
  private static let size = words + Int(NVM_GROUP_COUNTERS) * 16
  let base: UnsafeMutableRawPointer

  init() {
    base = .allocate(byteCount: Self.size, alignment: 64)
    base.initializeMemory(as: UInt8.self, repeating: 0, count: Self.size)
  }
  func deallocate() {
    for slot in 1..<Self.slots { if let area = area(slot) { munmap(area.base, GroupArea.size) } }
    for k in 0..<Self.tableCount { if let table = table(k) { munmap(table, Self.tableSize) } }
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
      guard let table = Self.map(Self.tableSize) else { return false }
      nvm_store_release(base + (Self.tables + k * 8), UInt64(UInt(bitPattern: table)))
    }
    guard let area = Self.map(GroupArea.size) else { return false }
    nvm_store_relaxed(GroupArea(base: area).owner, UInt64(UInt(bitPattern: region)))
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
    let mine = UInt16(truncatingIfNeeded: id &+ 1)
    var k = 0
    let last = highest &>> 3
    while k <= last {
      if let table = table(k) {
        let row = UnsafeMutableRawPointer(nvm_group_row(table, line)!)
        // Seldom does another stand there.
        if !nvm_group_row_is(row, mine) {
          for way in 0..<Int(NVM_GROUP_THREADS) {
            let other = nvm_load16_relaxed(row + way &* 2)
            if other != 0, other != mine { conflict(UInt64(other) &- 1) }
          }
        }
        // Mostly it is there already.
        let own = row + (slot & 7) &* 2
        if k == slot &>> 3, nvm_load16_relaxed(own) != mine { nvm_store16_release(own, mine) }
      }
      k &+= 1
    }
  }

  /// Notes a change of the calling thread, which owns the area.
  /// - Parameter pending: whether its write-back is put off; else the caller starts it now, with no fence before, and
  ///   nothing is pending.
  @inline(__always)
  func note(_ area: GroupArea, _ id: UInt64, first: UInt64, count: UInt64, pending: Bool) {
    let end = nvm_load_relaxed(area.end)
    if nvm_load_relaxed(area.active) != id { activate(area, id, end) }
    if pending, nvm_load_relaxed(area.pending) == 0 { nvm_store_release(area.pending, end &+ 1) }
    nvm_store_release(area.entry(end), nvm_group_entry(id, first, count))
    nvm_store_release(area.end, end &+ 1)
  }

  /// From here on `end` is this counter's tick.
  @inline(__always) private func activate(_ area: GroupArea, _ id: UInt64, _ end: UInt64) {
    nvm_store_release(area.mark(nvm_load_relaxed(area.active)), end)
    nvm_store_release(area.active, id)
  }

  /// Forgets what the owner has fenced. Called by it, before it writes further lines back.
  @inline(__always) func advance(_ area: GroupArea, completed: UInt64) {
    guard completed != nvm_load_relaxed(area.fences) else { return }
    let pending = nvm_load_relaxed(area.pending)
    nvm_store_release(area.settled, pending == 0 ? nvm_load_relaxed(area.end) : pending &- 1)
    // Before anything that is written back from now on is counted as such.
    nvm_store_release(area.fences, completed)
  }

  /// Changes that are not known to be settled by the owner's fences.
  @inline(__always) func outstanding(_ area: GroupArea) -> UInt64 {
    nvm_load_relaxed(area.end) &- nvm_load_relaxed(area.settled)
  }
}
