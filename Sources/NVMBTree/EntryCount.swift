import CNVM

/// The number of a tree's entries, counted by each thread in a line of its own. A shared word would need a locked
/// addition behind the fence of every insert, and the processor begins nothing behind that before the fence has ended:
/// with plain stores the next operation's way down overlaps with it.
struct EntryCount: @unchecked Sendable {
  private static let lines = 64
  private let base: UnsafeMutableRawPointer

  init() {
    base = .allocate(byteCount: Self.lines * 64, alignment: 64)
    base.initializeMemory(as: UInt8.self, repeating: 0, count: Self.lines * 64)
  }
  func deallocate() { base.deallocate() }

  /// Adds to the number, modulo 2⁶⁴.
  @inline(__always) func add(_ n: UInt64) {
    let slot = Int(nvm_thread_slot())
    if slot > 0, slot < Self.lines {
      let line = base + slot &* 64
      nvm_store_relaxed(line, nvm_load_relaxed(line) &+ n)
    } else {
      // Threads that have no line of their own share the first.
      _ = nvm_fetch_add_relaxed(base, n)
    }
  }

  /// The sum over all threads. O(1). Beside writers it may lack an insertion and have the removal behind it: never
  /// below 0.
  var total: Int {
    var sum: UInt64 = 0
    for line in 0..<Self.lines { sum &+= nvm_load_relaxed(base + line &* 64) }
    return max(0, Int(truncatingIfNeeded: sum))
  }

  /// Before the tree is shared.
  func set(_ n: Int) {
    for line in 0..<Self.lines { nvm_store_relaxed(base + line &* 64, line == 0 ? UInt64(n) : 0) }
  }
}
