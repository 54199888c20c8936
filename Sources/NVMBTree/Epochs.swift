import CNVM
import Synchronization

/// Epoch-based reclamation: what was unlinked may be reused once every reader that began before has ended.
///
/// A reader of records pins the current epoch in its thread slot; whoever unlinks something retires it with the
/// epoch of that moment, and frees it when no pin is that old. Long pins (`withBytes`) are counted and can be
/// named.
///
/// A reader stores its pin and then reads the tree; who frees has changed the tree and then reads the pins. One of them
/// has to see the other, which takes a full barrier on both sides. Freeing is done for many at once and rare, so its
/// barrier stands for both: it makes every thread pass one (membarrier, as in `TreeGate`). A reader has no locked
/// instruction then, which would keep the next look-up from beginning before this one's misses have ended. Where the
/// kernel has no such barrier, readers pin by a sequentially consistent store.
///
/// Owned by the `TreeSpace`. Not a class: a look-up would retain it for each call, which is a locked instruction too.
struct Epochs: @unchecked Sendable {
  // A line for each thread slot: pinned epoch (0 = none), nesting depth.
  private let pins: UnsafeMutableRawPointer
  private let clock: UnsafeMutableRawPointer  // word 0: epoch, word 8: readers without a slot of their own

  private let isAsymmetric = nvm_barrier_of_all_threads() == 0

  init() {
    pins = .allocate(byteCount: Int(NVM_THREAD_SLOTS) * 64, alignment: 64)
    pins.initializeMemory(as: UInt8.self, repeating: 0, count: Int(NVM_THREAD_SLOTS) * 64)
    clock = .allocate(byteCount: 64, alignment: 64)
    clock.initializeMemory(as: UInt8.self, repeating: 0, count: 64)
    nvm_store_relaxed(clock, 1)
  }
  func deallocate() {
    pins.deallocate()
    clock.deallocate()
  }

  /// Begins a span in which nothing retired from now on is freed. Spans nest within a thread. O(1).
  @inline(__always) func pin() {
    let slot = Int(nvm_thread_slot())
    guard slot != 0 else {
      _ = nvm_fetch_add_acqrel(clock + 8, 1)
      nvm_seqcst_fence()
      return
    }
    let p = pins + slot &* 64
    let depth = nvm_load_relaxed(p + 8)
    nvm_store_relaxed(p + 8, depth &+ 1)
    guard depth == 0 else { return }
    // The pin has to be seen before anything is read under it.
    if isAsymmetric {
      nvm_store_relaxed(p, nvm_load_relaxed(clock))
      nvm_compiler_fence()
    } else {
      nvm_store_seqcst(p, nvm_load_relaxed(clock))
    }
  }

  @inline(__always) func unpin() {
    let slot = Int(nvm_thread_slot())
    guard slot != 0 else {
      _ = nvm_fetch_add_acqrel(clock + 8, 0 &- 1)
      return
    }
    let p = pins + slot &* 64
    let depth = nvm_load_relaxed(p + 8) &- 1
    nvm_store_relaxed(p + 8, depth)
    if depth == 0 { nvm_store_release(p, 0) }
  }

  /// The epoch to retire under; begins a new one.
  func advance() -> UInt64 { nvm_fetch_add_acqrel(clock, 1) }

  /// What was retired before this epoch may be freed. Some microseconds: for many at once.
  func oldestPinned() -> UInt64 {
    nvm_seqcst_fence()
    // Without the barrier nothing is certain.
    if isAsymmetric, nvm_barrier_of_all_threads() != 0 { return 0 }
    if nvm_load_acquire(clock + 8) != 0 { return 0 }
    var oldest = nvm_load_acquire(clock)
    for slot in 1..<Int(NVM_THREAD_SLOTS) {
      let pinned = nvm_load_acquire(pins + slot &* 64)
      if pinned != 0 { oldest = min(oldest, pinned) }
    }
    return oldest
  }
}
