import CNVM
import NVMRegion

// What the report of a stray write says about the place. Runs in a signal handler, while other threads are wherever they
// were stopped: reads the unit map and headers, takes no lock, allocates nothing, and believes nothing that does not
// lie within the heap.
extension PersistentHeap {
  func installDescriber() {
    region.setDescriber(
      { context, offset, owner in
        guard let context, let owner else { return }
        let heap = Unmanaged<PersistentHeap>.fromOpaque(context)
        heap._withUnsafeGuaranteedRef { $0.describe(offset, &owner.pointee) }
      }, context: Unmanaged.passUnretained(self).toOpaque())
  }

  private func describe(_ offset: UInt64, _ owner: inout nvm_guard_owner) {
    func say(_ what: StaticString, at start: UInt64 = 0, _ size: Int = 0) {
      owner.what = UnsafeRawPointer(what.utf8Start).assumingMemoryBound(to: CChar.self)
      owner.offset = start
      owner.size = UInt64(truncatingIfNeeded: size)
    }
    func tell(_ word1: UInt64) {
      owner.has_tag = 1
      owner.tag = UInt32(BlockHeader.tag(word1).rawValue)
      owner.owner = BlockHeader.owner(word1).rawValue
    }
    if offset < region.payloadStart.rawValue { return say("the region's superblocks") }
    var unit = Int(truncatingIfNeeded: offset >> UInt64(unitShift))
    guard unit < unitCount, unit < map.capacity else { return say("space behind the heap") }
    let word = map.word(unit)
    if let slab = UnitMap.slab(word) {
      let i = slab.index(of: offset)
      let block = slab.offset(i)
      let size = slab.pointee.blockBytes
      guard i < slab.pointee.blockCount, Int(truncatingIfNeeded: block) + size <= region.size else {
        return say("the unused end of a slab", at: slab.pointee.base, slab.pointee.unitCount << unitShift)
      }
      let word0 = region.load(Offset(rawValue: block))
      let word1 = region.load(Offset(rawValue: block + 8))
      guard i < slab.pointee.mark, isAllocated(word0, word1, block, slab) else {
        return say("a free block of a slab", at: block, size)
      }
      say("a live block (header included)", at: block, size)
      tell(word1)
      if offset < block + 16 { part("its header", at: block, 16, &owner) }
      return
    }
    // Units inside an extent say nothing; its head does.
    while unit > 0, map.word(unit) == 0, !pending.isSet(unit) { unit -= 1 }
    if pending.isSet(unit) { return say("a slab not used since the opening", at: start(ofUnit: unit)) }
    let head = map.word(unit)
    let start = start(ofUnit: unit)
    let bytes = UnitMap.length(head) << unitShift
    switch UnitMap.tag(head) {
    case UnitMap.Tag.object:
      say("a live extent", at: start, bytes)
      let word1 = region.load(entry(unit) + 8)
      tell(word1)
      if BlockHeader.tag(word1) == .treeNodes {
        say("an extent of leaves (the owner is the tree's number)", at: start, bytes)
        part("the leaf", at: offset & ~511, 512, &owner)
      }
    case UnitMap.Tag.objectHeld: say("an extent that is being freed", at: start, bytes)
    case UnitMap.Tag.free: say("a free extent", at: start, bytes)
    default: say("the heap's own tables and logs", at: start, bytes)
    }
  }

  private func part(_ what: StaticString, at start: UInt64, _ size: UInt64, _ owner: inout nvm_guard_owner) {
    owner.part = UnsafeRawPointer(what.utf8Start).assumingMemoryBound(to: CChar.self)
    owner.part_offset = start
    owner.part_size = size
  }
}
