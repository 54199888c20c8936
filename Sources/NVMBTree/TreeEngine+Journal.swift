import CNVM
import NVMRegion

// Durability on a journal.
//
//     writer    lock … flush … position(leaf) := end of the journal … unlock … wait until the position is durable
//     reader    version, slots, version again, position(leaf): not durable yet? wait (and lead the sync)
//
// The position is stored before the lock is given back, so a reader whose version held sees that of what it read, or a
// later one. Positions only rise. What a split or merge moves takes its position along: the one of the split is later.

extension TreeEngine {
  /// Notes that the leaf's last change is the last thing this thread has flushed. With the leaf's lock, or before
  /// anybody can reach it.
  @inline(__always) func notePosition(_ node: UInt32) {
    if let journal { nvm_store_relaxed(space.positionWord(node), journal.position) }
  }

  /// Waits until what was read of the leaf survives a crash. No lock may be held.
  @inline(__always) func awaitDurable(_ node: UInt32) throws(NVMError) {
    if journal != nil { try awaitPosition(node) }
  }

  /// Waits, where the journal fills up, before the first lock of a change.
  @inline(__always) func admit() { journal?.admit() }

  /// Lets the updates of this thread go on without waiting for the disk. False where they do not wait for one.
  @usableFromInline func beginDeferral() -> Bool { region.beginDeferral() }
  @usableFromInline func endDeferral() { region.endDeferral() }
  /// Waits for what this thread has settled.
  @usableFromInline func acknowledge() throws(NVMError) { try region.acknowledge() }

  @inline(never) private func awaitPosition(_ node: UInt32) throws(NVMError) {
    guard let journal, !options.readsAhead else { return }
    let position = nvm_load_relaxed(space.positionWord(node))
    if !journal.isDurable(position) { try region.awaitDurable(position) }
  }
}
