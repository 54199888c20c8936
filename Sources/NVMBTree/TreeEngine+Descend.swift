import CNVM
import Glibc
import NVMRegion

// The way from the root to a leaf, without locks: each node's version is read before and checked after, the
// parent's once more when the child's version is known (optimistic lock coupling; Leis et al., DaMoN 2016).

/// Where a descent arrived: the leaf, and its lock word's value at a moment when it was unlocked and this its way. A
/// leaf's range changes only with its lock held, so it is right as long as the lock word has that value.
struct Position {
  var leaf: UInt32
  var version: UInt64
}

extension TreeEngine {
  /// The leaf whose range holds `key`.
  @inline(__always) func descend(_ key: SearchKey) -> Position {
    if key.bytes == nil, let position = route(key.head) { return position }
    return descendSlowly(key)
  }
  @inline(never) private func descendSlowly(_ key: SearchKey) -> Position {
    descend { $0.childIndex(for: key) }
  }
  /// As `descend`, once, for a key that is its head. Nil where a writer was met.
  @inline(__always) func route(_ head: UInt64) -> Position? {
    let place = space.descend(head, root: rootWord, leaves: region.baseAddress)
    guard place.version & 1 == 0 else { return nil }
    return Position(leaf: UInt32(truncatingIfNeeded: place.leaf), version: place.version)
  }
  /// The leaf whose range holds what comes just before `key`.
  func descend(before key: SearchKey) -> Position { descend { $0.childIndex(before: key) } }
  func descendToLast() -> Position { descend { $0.count } }

  @inline(__always) func descend(_ choose: (InnerNode) -> Int) -> Position {
    while true {
      if let position = tryDescend(choose) { return position }
      nvm_pause()
    }
  }

  @inline(__always) func tryDescend(_ choose: (InnerNode) -> Int) -> Position? {
    let root = nvm_load_acquire(rootWord)
    var height = root >> 32
    var node = UInt32(truncatingIfNeeded: root)
    var parent = rootWord
    var parentVersion = root
    while height > 0 {
      let inner = space.inner(node)
      let version = nvm_load_acquire(inner.version)
      guard version & 1 == 0, nvm_load_relaxed(parent) == parentVersion else { return nil }
      let child = inner.child(choose(inner))
      nvm_acquire_fence()
      guard nvm_load_relaxed(inner.version) == version else { return nil }
      parent = inner.version
      parentVersion = version
      node = child
      height &-= 1
    }
    let lock = space.lockWord(node)
    prefetchLeaf(node)
    let version = waitUnlocked(lock)
    guard nvm_load_relaxed(parent) == parentVersion else { return nil }
    return Position(leaf: node, version: version)
  }

  /// Brings a leaf's lines on their way to the cache, all at once: the slot is known only when the first has arrived.
  @inline(__always) func prefetchLeaf(_ node: UInt32) {
    let base = region.baseAddress + Int(UInt64(node) << LeafLayout.shift)
    for line in 0..<8 { nvm_prefetch(base + line &* 64) }
  }

  /// The lock word's value once no writer holds it.
  @inline(__always) func waitUnlocked(_ lock: UnsafeMutableRawPointer) -> UInt64 {
    let version = nvm_load_acquire(lock)
    return version & 1 == 0 ? version : spinUntilUnlocked(lock)
  }

  @inline(never) private func spinUntilUnlocked(_ lock: UnsafeMutableRawPointer) -> UInt64 {
    var spins = 0
    while true {
      let version = nvm_load_acquire(lock)
      if version & 1 == 0 { return version }
      spins &+= 1
      // A holder waits for a fence: nanoseconds on memory, much longer on a disk.
      if spins < 64 { nvm_pause() } else if spins < 256 { sched_yield() } else { usleep(20) }
    }
  }

  /// Whether what was read of the leaf since `position` belongs together.
  @inline(__always) func isUnchanged(_ position: Position) -> Bool {
    nvm_acquire_fence()
    return nvm_load_relaxed(space.lockWord(position.leaf)) == position.version
  }

  /// Locks the leaf that `position` names, unless it changed since.
  @inline(__always) func tryLock(_ position: Position) -> Bool {
    nvm_compare_exchange(space.lockWord(position.leaf), position.version, position.version | 1)
  }

  /// Descends to the key's leaf and locks it.
  @inline(__always) func lockLeaf(for key: SearchKey, hint: Position? = nil) -> Position {
    if let hint, tryLock(hint) { return hint }
    while true {
      let position = descend(key)
      if tryLock(position) { return position }
      nvm_pause()
    }
  }

  /// Locks a leaf that cannot be freed meanwhile (the right neighbour of a locked one).
  func lockLeaf(_ node: UInt32) -> UInt64 {
    let lock = space.lockWord(node)
    while true {
      let version = waitUnlocked(lock)
      if nvm_compare_exchange(lock, version, version | 1) { return version }
    }
  }

  /// Gives the lock back; readers that overlap start over.
  @inline(__always) func unlock(_ leaf: UInt32, _ version: UInt64) {
    nvm_store_release(space.lockWord(leaf), version &+ 2)
  }
  /// Gives the lock back where nothing was changed.
  @inline(__always) func unlockUnchanged(_ leaf: UInt32, _ version: UInt64) {
    nvm_store_release(space.lockWord(leaf), version)
  }
}

extension TreeEngine {
  /// A descent to the leaf of a key that also finds the separator at or above which the leaf's right neighbours lie. Epoch
  /// pinned.
  func descend(upperFence: inout SearchKey?, _ key: SearchKey) -> Position {
    while true {
      var found: SearchKey?
      let position = tryDescend { inner in
        let index = inner.childIndex(for: key)
        if index < inner.count { found = inner.separator(index) }
        return index
      }
      if let position {
        upperFence = found
        return position
      }
      nvm_pause()
    }
  }

  /// A descent that also finds the separator below which the leaf's left neighbours lie. Epoch pinned.
  func descend(fence: inout SearchKey?, _ choose: (InnerNode) -> Int) -> Position {
    while true {
      var found: SearchKey?
      let position = tryDescend { inner in
        let index = choose(inner)
        if index > 0 { found = inner.separator(index - 1) }
        return index
      }
      if let position {
        fence = found
        return position
      }
      nvm_pause()
    }
  }
}
