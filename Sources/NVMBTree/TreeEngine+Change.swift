import CNVM
import NVMRegion

// A change of one entry, in two steps: what is to be stored where, which only reads; and the stores, with the leaf
// locked. The first may come before the lock, since to take it proves that nothing has changed since.

/// What an update stores in its leaf, beside the entry itself.
struct LeafChange {
  /// Where the entry goes.
  var slot: Int
  /// Where the entry of slot 0 goes; negative where it stays.
  var moveTo: Int
  var movedHead: UInt64
  var movedWord: UInt64
  var movedFingerprint: UInt8
  /// The live set afterwards.
  var live: UInt64
  /// The sum over it.
  var sum: UInt32
}

extension TreeEngine {
  /// A new entry. One fence; one flushed line when slot 0 is free, else two.
  @inline(__always)
  func insertion(
    into leaf: Leaf, _ old: LeafCommit, _ head: UInt64, _ word: UInt64, _ fingerprint: UInt8
  ) -> LeafChange {
    placement(
      in: leaf, old, keeping: old.live, sum: UInt32(truncatingIfNeeded: leaf.sums), head, word, fingerprint)
  }

  /// A new word for an entry. One in slot 0 shares its line with sums and commit word: there the word itself is
  /// stored last, in place. Any other takes a new slot. One fence, one or two lines.
  @inline(__always)
  func replacement(
    of slot: Int, in leaf: Leaf, _ old: LeafCommit, _ head: UInt64, _ word: UInt64, _ fingerprint: UInt8
  ) -> LeafChange {
    let s = leafSeed(leaf.node)
    let sum =
      UInt32(truncatingIfNeeded: leaf.sums) &- slotHash(s, slot, head, leaf.word(slot), fingerprint)
    if slot == 0 {
      return LeafChange(
        slot: 0, moveTo: -1, movedHead: 0, movedWord: 0, movedFingerprint: 0, live: old.live,
        sum: sum &+ slotHash(s, 0, head, word, fingerprint))
    }
    // The old slot is not free yet: prev still names it.
    return placement(
      in: leaf, old, keeping: old.live & ~(1 &<< UInt64(slot)), sum: sum, head, word, fingerprint)
  }

  /// An entry in a free slot; slot 0's moves along where that pays. `keeping` is the set that goes on living, `sum`
  /// the one over it.
  @inline(__always)
  private func placement(
    in leaf: Leaf, _ old: LeafCommit, keeping: UInt64, sum: UInt32, _ head: UInt64, _ word: UInt64,
    _ fingerprint: UInt8
  ) -> LeafChange {
    let s = leafSeed(leaf.node)
    let (slot, moveTo) = choosePlace(~old.live & LeafLayout.slotMask)
    var change = LeafChange(
      slot: slot, moveTo: -1, movedHead: 0, movedWord: 0, movedFingerprint: 0,
      live: keeping | 1 &<< UInt64(slot), sum: sum &+ slotHash(s, slot, head, word, fingerprint))
    if moveTo >= 0, keeping & 1 != 0 {
      change.moveTo = moveTo
      change.movedHead = leaf.head(0)
      change.movedWord = leaf.word(0)
      change.movedFingerprint = leaf.fingerprint(0)
      change.live = change.live & ~1 | 1 &<< UInt64(moveTo)
      change.sum =
        change.sum
        &+ slotHash(s, moveTo, change.movedHead, change.movedWord, change.movedFingerprint)
        &- slotHash(s, 0, change.movedHead, change.movedWord, change.movedFingerprint)
    }
    return change
  }

  /// Where a new entry goes: slot 0 where it is free (one line to flush); else a line with two free slots, which
  /// also takes the entry of slot 0, so that the next insert finds slot 0 free (LB+-Tree, VLDB 2020, §4.2); else
  /// any free slot.
  @inline(__always)
  private func choosePlace(_ free: UInt64) -> (slot: Int, moveTo: Int) {
    if free & 1 != 0 { return (0, -1) }
    // The lines behind the first hold four slots each from slot 1 on, so each has four bits of its own here: they are
    // counted side by side, and 6 more carries a count of two or more into the highest of the four.
    let lines = free &>> 1
    let pairs = (lines & 0x555_5555) &+ (lines &>> 1 & 0x555_5555)
    let counts = (pairs & 0x333_3333) &+ (pairs &>> 2 & 0x333_3333)
    let roomy = (counts &+ 0x666_6666) & 0x888_8888
    guard roomy != 0 else { return (free.trailingZeroBitCount, -1) }
    let here = free & 0b1_1110 &<< UInt64(roomy.trailingZeroBitCount & ~3)
    return (here.trailingZeroBitCount, (here & (here &- 1)).trailingZeroBitCount)
  }

  /// The stores of a change, in the order of LeafLayout, and its fence. The leaf is locked and as it was when the
  /// change was worked out.
  @inline(__always)
  func carryOut(
    _ change: LeafChange, in leaf: Leaf, _ old: LeafCommit, _ head: UInt64, _ word: UInt64,
    _ fingerprint: UInt8
  ) throws(NVMError) {
    if change.slot == 0, old.live & 1 != 0 {
      return try replaceFirst(in: leaf, old, word, sum: change.sum)
    }
    var tally = StoreTally()
    var words = LeafLayout.fingerprintWord(change.slot)
    fill(leaf, change.slot, head, word, counting: &tally)
    setFingerprint(leaf, change.slot, fingerprint, counting: &tally)
    var moved: UInt8 = 0
    if change.moveTo >= 0 {
      fill(leaf, change.moveTo, change.movedHead, change.movedWord, counting: &tally)
      setFingerprint(leaf, change.moveTo, change.movedFingerprint, counting: &tally)
      words |= LeafLayout.fingerprintWord(change.moveTo)
      moved = LeafLayout.slotWords(change.moveTo)
    }
    var lines: UInt8 = 0
    if change.slot == 0 {
      words |= LeafLayout.slotWords(0)
    } else {
      let line = LeafLayout.slot(change.slot) &>> 6
      if !putsOff {
        region.flush(
          line: leaf.offset + line &* 64, words: LeafLayout.slotWords(change.slot) | moved,
          counting: &tally)
      }
      lines = 1 &<< UInt8(truncatingIfNeeded: line)
    }
    try commit(
      leaf, old, live: change.live, alternate: old.alternate, sum: change.sum, words: words, lines: lines,
      counting: tally)
  }

  /// Same line, this order; the last store is the atomic one. Before it S(live) equals the high sum.
  @inline(__always)
  private func replaceFirst(in leaf: Leaf, _ old: LeafCommit, _ word: UInt64, sum: UInt32) throws(NVMError) {
    var tally = StoreTally()
    let present = leaf.sums & 0xFFFF_FFFF
    region.store(UInt64(sum) | present << 32, at: leaf.offset + LeafLayout.sums, counting: &tally)
    region.store(
      LeafCommit(settled: old.live, alternate: old.alternate).raw, at: leaf.offset + LeafLayout.commit,
      counting: &tally)
    region.store(word, at: leaf.offset + (LeafLayout.slot(0) + 8), counting: &tally)
    try settle(leaf, words: 0b1000_0011, lines: 0, counting: tally)
  }
}
