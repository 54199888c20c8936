import CNVM

// The leaf, 512 bytes on a 512-byte boundary: one disk sector, eight cache lines.
//
// OFFSET SIZE  DESCRIPTION
//      0    8  commit word   bits  0–27  live: which slots hold the leaf's entries
//                            bits 28–55  prev: the live set before the last change
//                            bit  56     which of the two `next` fields is in force
//                            bit  57     which was before the last change
//      8    8  sums          low half: sum over live; high half: sum over prev
//     16   28  fingerprints, a byte for each slot
//     44    4  zero
//     48  448  28 slots of 16 bytes: head, word. Slot 0 shares the first line with the commit word
//    496    8  next, two fields of 32 bits: a leaf number (offset / 512), 0 at the end of the chain
//    504    8  tree number (32 bits), zero (32 bits)
//
// A sum is the modular sum of a 32-bit keyed hash of each slot of the set with its fingerprint (bound to slot,
// leaf and tree) and of the `next` field in force with it.
//
// A change of a leaf
//
//     1  slots that are free now, their fingerprints and the idle `next` field take what the change adds
//     2  sums  := { sum(new set), sum(present set) }                                           same line,
//     3  commit word := { live = new, prev = present }      <- atomic: the change happens       this order
//     4  flush the touched lines, one fence
//
// The lines of step 1 may reach the medium after the commit word. So after a crash, with S(live) computed from
// the slots:
//     S(live) = low sum       the leaf is whole
//     S(live) = high sum      the crash came between 2 and 3: the leaf is whole, the change did not happen
//     S(prev) = high sum      the commit word arrived without the slots it names: the unacknowledged change is
//                             undone by going back to prev. Only after an unclean shutdown, and counted
//     otherwise               corrupt
// No slot of `live` is written before a later set is fenced, so `prev` of the next change is always intact.
//
// Where a whole change is an atomic step of a journal, as are groups of them on a journaled file (TreeBatch+Update), the
// word of a live slot is stored in its place, and both sums are those of the set that holds.

enum LeafLayout {
  static let size = 512
  static let shift = UInt64(NVM_LEAF_SHIFT)
  static let slots = Int(NVM_LEAF_SLOTS)
  static let slotMask = UInt64(NVM_LEAF_LIVE)
  /// One slot stays free, so that an update always finds one.
  static let capacity = 27

  static let commit = 0
  static let sums = 8
  static let fingerprints = Int(NVM_LEAF_PRINTS)
  static let firstSlot = Int(NVM_LEAF_FIRST_SLOT)
  static let next = 496
  static let tree = 504

  static let prevShift: UInt64 = 28
  static let alternateBit: UInt64 = 1 << 56
  static let prevAlternateBit: UInt64 = 1 << 57
  static let usedCommitBits: UInt64 = (1 << 58) - 1

  @inline(__always) static func slot(_ i: Int) -> Int { firstSlot &+ 16 &* i }

  /// The words of a slot, as a mask within its line.
  @inline(__always) static func slotWords(_ i: Int) -> UInt8 {
    0b11 &<< UInt8(truncatingIfNeeded: (slot(i) &>> 3) & 7)
  }
  /// The word of a slot that holds the value, as a mask within its line.
  @inline(__always) static func valueWord(_ i: Int) -> UInt8 {
    0b10 &<< UInt8(truncatingIfNeeded: (slot(i) &>> 3) & 7)
  }
  /// In the first line.
  static let commitWord: UInt64 = 1
  static let sumsWord: UInt64 = 1 << 1
  /// The word of both `next` fields, as a mask within the last line.
  static let nextWord: UInt8 = 1 << 6
  /// The word of a slot's fingerprint, as a mask within the first line.
  @inline(__always) static func fingerprintWord(_ i: Int) -> UInt8 {
    0b100 &<< UInt8(truncatingIfNeeded: i &>> 3)
  }

  /// The slots of each line but the first, as masks: a new entry and the one moved out of slot 0 go to one line.
  @inline(__always) static func lineMask(_ line: Int) -> UInt64 {
    line == 7 ? 0b111 << 25 : 0b1111 << UInt64(4 &* line &- 3)
  }
}

/// A leaf's commit word, taken apart.
struct LeafCommit: Equatable {
  var raw: UInt64

  @inline(__always) init(raw: UInt64) { self.raw = raw }
  @inline(__always) init(live: UInt64, alternate: Bool, previous: LeafCommit) {
    raw =
      live | previous.live << LeafLayout.prevShift | (alternate ? LeafLayout.alternateBit : 0)
      | (previous.alternate ? LeafLayout.prevAlternateBit : 0)
  }
  /// A state that has no other before it.
  @inline(__always) init(settled live: UInt64, alternate: Bool) {
    raw =
      live | live << LeafLayout.prevShift
      | (alternate ? LeafLayout.alternateBit | LeafLayout.prevAlternateBit : 0)
  }
  @inline(__always) var live: UInt64 { raw & LeafLayout.slotMask }
  @inline(__always) var prev: UInt64 { (raw >> LeafLayout.prevShift) & LeafLayout.slotMask }
  @inline(__always) var alternate: Bool { raw & LeafLayout.alternateBit != 0 }
  @inline(__always) var prevAlternate: Bool { raw & LeafLayout.prevAlternateBit != 0 }
  @inline(__always) var count: Int { live.nonzeroBitCount }
}
