import CNVM
import NVMRegion

// Durability that comes later. On a journal:
//
//     writer    lock … flush … position(leaf) := end of the journal … unlock … wait until the position is durable
//     reader    version, slots, version again; all of the journal durable? done
//               position(leaf): not durable yet? wait (and lead the sync)
//
// The position is stored before the lock is given back, so a reader whose version held sees that of what it read, or a
// later one. Positions only rise. What a split or merge moves takes its position along: the one of the split is later.
//
// On other media, for changes under a persist group, the word beside the leaf holds the stamp of its last change, in the
// same way. A leaf has one change outstanding at most, so `prev` names the last fenced set as ever, and a change that
// is not fenced is to a crash one whose thread stood before its fence:
//
//     writer    lock; stamp(leaf) not settled? write back, fence … stores … stamp(leaf) := mine … unlock
//     reader    version, slots, version again, stamp(leaf): not settled? write back, fence
//
// - Changes of different leaves depend on one another only through links. The new right half of a split is ordered
//   before the link, and takes the link's stamp, so nobody relies on what it gets before the link is fenced. Merges
//   settle both leaves first, and are fenced themselves: the freed node may be written again.
// - A record is ordered before the slot that names it. One that was replaced is freed when the change that replaced
//   it is settled.
// - The structure word of a leaf is read with the lock, or before the version that was read is seen to have held.

extension TreeEngine {
  /// Whether leaves have positions, or may have stamps.
  @inline(__always) var isMarked: Bool { nvm_load_relaxed(marksWord) != 0 }

  /// Notes beside the leaf that its last change is the last thing this thread has flushed. With the leaf's lock, or
  /// before anybody can reach it.
  @inline(__always) func notePosition(_ node: UInt32) {
    if isMarked { mark(node) }
  }
  @inline(never) private func mark(_ node: UInt32) {
    if let journal {
      nvm_store_relaxed(space.positionWord(node), journal.position)
    } else if region.isInGroupSpan {
      nvm_store_relaxed(space.positionWord(node), region.groupStamp)
    }
  }

  /// Waits until what was read of the leaf survives a crash. No lock may be held.
  @inline(__always) func awaitDurable(_ node: UInt32) throws(NVMError) {
    // The usual case, without a look at the leaf's position, which is seldom in the cache.
    if let positions, positions.isAllDurable { return }
    if isMarked { try awaitPosition(node) }
  }

  /// Waits, where the journal fills up, before the first lock of a change.
  @inline(__always) func admit() { journal?.admit() }

  /// Lets the updates of this thread go on without waiting for the disk. False where they do not wait for one.
  @usableFromInline func beginDeferral() -> Bool { region.beginDeferral() }
  @usableFromInline func endDeferral() { region.endDeferral() }
  /// Waits for what this thread has settled.
  @usableFromInline func acknowledge() throws(NVMError) { try region.acknowledge() }

  @inline(never) private func awaitPosition(_ node: UInt32) throws(NVMError) {
    if options.readsAhead { return }
    let position = nvm_load_relaxed(space.positionWord(node))
    guard let journal else { return try region.settle(stamp: position) }
    if !journal.isDurable(position) { try region.awaitDurable(position) }
  }

  // MARK: Under a group, without a journal

  /// Settles what is outstanding of a locked leaf, so that it may change.
  @inline(__always) func settleLeaf(_ node: UInt32) throws(NVMError) {
    if isMarked { try settleStamp(node) }
  }
  @inline(__always) private func settleStamp(_ node: UInt32) throws(NVMError) {
    if journal != nil { return }
    let stamp = nvm_load_relaxed(space.positionWord(node))
    if stamp != 0 { try region.settle(stamp: stamp) }
  }

  /// Whether this thread's changes are fenced later.
  @inline(__always) var putsOff: Bool { isMarked && region.isInGroupSpan }

  /// The end of a change where leaves are marked. `lines`: those of the leaf that were changed, besides the first.
  @inline(never)
  func commitMarked(_ leaf: Leaf, words: UInt8, lines: UInt8) throws(NVMError) {
    if region.isInGroupSpan {
      let stamp = try region.commitUnderGroup(leaf: leaf.offset, lines: lines | 1)
      return nvm_store_relaxed(space.positionWord(leaf.node), stamp)
    }
    region.flush(line: leaf.offset, words: words)
    try region.settle()
    mark(leaf.node)
  }

  /// What has to be settled before something that a change of this thread has unlinked may be freed; 0 for nothing.
  var unlinkStamp: UInt64 { putsOff ? region.groupStamp : 0 }
}
