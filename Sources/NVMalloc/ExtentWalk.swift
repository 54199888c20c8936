import NVMRegion

/// Reads the extent table head by head, checks each, and goes on behind damage: at the next valid head. What
/// was skipped is one hole; free heads that follow a hole directly are suspect, since they may be stale ones
/// inside the extent whose head was lost.
///
/// Where the heap's own areas lie the heap header says: no other head is believed there, and one that is lost is no hole.
struct ExtentWalk {
  struct Head {
    var unit: Int
    var length: Int
    /// `nil` for a hole.
    var kind: ExtentKind?
    var word1: UInt64 = 0
    var word2: UInt64 = 0
    /// The mark of a slab, `nil` where it does not verify.
    var mark: Int?
    var isSuspect = false
    /// Of an object: units of the free rest that its word 4 names behind it, or 0.
    var rest = 0
    /// A free extent that only the object before it knows of: a crash kept its head from the medium.
    var isUnwritten = false
    /// One of the heap's own areas, whose head is damaged: the heap header says what belongs there.
    var isKnownOtherwise = false

    /// Of a slab: the size of a block in lines.
    var blockLines: Int { Int(word1 & 0xFFFF) }
  }
  let region: PersistentRegion
  let check: HeaderCheck
  let header: HeapHeader
  /// Whether a head that only the object before it knows of is damage: not after a crash.
  let isAtRest: Bool
  private let systemLength: Int
  private let table: Range<Int>

  init(_ region: PersistentRegion, _ check: HeaderCheck, _ header: HeapHeader, isAtRest: Bool) {
    (self.region, self.check, self.header, self.isAtRest) = (region, check, header, isAtRest)
    (systemLength, table) = (header.systemLength, header.tableUnits)
  }

  func start(_ unit: Int) -> UInt64 { UInt64(unit) << UInt64(header.unitShift) }

  /// What the heap header says of the extent at `unit`.
  private func own(_ unit: Int) -> (kind: ExtentKind, length: Int)? {
    if unit == 0 { return (.system, systemLength) }
    return unit == table.lowerBound ? (.table, table.count) : nil
  }
  /// Whether an extent may lie there beside the heap's own areas, or is one of them.
  private func fits(_ kind: ExtentKind?, _ extent: Range<Int>) -> Bool {
    guard let own = own(extent.lowerBound) else { return kind != .system && !extent.overlaps(table) }
    return own == (kind, extent.count)
  }

  /// The head at `unit`, if it verifies and its extent fits.
  func head(_ unit: Int) -> Head? {
    let at = header.tableOffset + unit * ExtentEntry.size
    let word0 = region.load(at)
    let length = ExtentEntry.length(word0)
    let word1 = region.load(at + 8)
    let word2 = region.load(at + 16)
    guard check.isValidExtent(word0, at: start(unit), word1, word2), unit + length <= header.unitCount else {
      return nil
    }
    var head = Head(unit: unit, length: length, kind: ExtentEntry.kind(word0), word1: word1, word2: word2)
    guard fits(head.kind, unit..<unit + length) else { return nil }
    let bytes = length << header.unitShift
    switch head.kind {
    case .object:
      guard word2 <= UInt64(bytes) else { return nil }
      let word4 = region.load(at + 32)
      let rest = Int(word4 & 0xFFF_FFFF)
      if rest > 0, check.rest(rest, behind: length, at: start(unit)) == word4,
        unit + length + rest <= header.unitCount, fits(.free, unit + length..<unit + length + rest)
      {
        head.rest = rest
      }
    case .slab:
      let lines = head.blockLines
      let largest = min(8 << header.unitShift, 128 << 10)
      // Longer than any that is made, its bitmaps would not fit behind its descriptor.
      guard lines > 0, lines * 64 <= min(bytes, largest), word1 & 0xFFFF_0000 == 0,
        SizeClasses.lines(SizeClasses.index(lines: lines)) == lines,
        bytes / (lines * 64) <= 64 * Slab.wordCapacity(unitShift: header.unitShift)
      else { return nil }
      let word3 = region.load(at + 24)
      let mark = UInt32(truncatingIfNeeded: word3)
      if check.mark(mark, generation: UInt32(word1 >> 32), at: start(unit)) == word3,
        mark <= bytes / (lines * 64)
      {
        head.mark = Int(mark)
      }
    default: break
    }
    return head
  }

  /// Hands on all heads, holes included, in order. Returns the damage. O(extents), O(units) over damage.
  func run(
    progress: ((Int, Int) -> Void)? = nil, _ body: (Head) throws(NVMError) -> Void
  ) throws(NVMError) -> [HeapProblem] {
    var problems: [HeapProblem] = []
    var unit = 0
    var followsHole = false
    var reported = 0
    while unit < header.unitCount {
      if let progress, unit - reported >= 1 << 16 {
        progress(unit, header.unitCount)
        reported = unit
      }
      if var head = head(unit) {
        if head.kind != .free { followsHole = false }
        head.isSuspect = followsHole
        if followsHole {
          problems.append(
            HeapProblem(
              .suspectExtent, start(unit), extent: start(unit), byteCount: head.length << header.unitShift,
              "A free extent lies behind a damaged head and is set aside."))
        }
        if head.kind == .slab, head.mark == nil {
          problems.append(
            HeapProblem(
              .slabMark, start(unit), extent: start(unit), byteCount: head.length << header.unitShift,
              "The high-water mark of a slab is damaged; its free blocks are set aside."))
        }
        try body(head)
        unit += head.length
        if head.rest > 0, region.load(header.tableOffset + unit * ExtentEntry.size) == 0 {
          try body(Head(unit: unit, length: head.rest, kind: .free, isUnwritten: true))
          if isAtRest {
            problems.append(
              HeapProblem(
                .extentHead, start(unit), extent: start(unit), byteCount: head.rest << header.unitShift,
                "The head of a free extent is gone; what stands before it says how long it is."))
          }
          unit += head.rest
        }
        continue
      }
      if let own = own(unit) {
        followsHole = false
        try body(Head(unit: unit, length: own.length, kind: own.kind, isKnownOtherwise: true))
        problems.append(
          HeapProblem(
            .extentHead, start(unit), extent: start(unit), byteCount: own.length << header.unitShift,
            "The head of the heap's own \(unit == 0 ? "area" : "table") is damaged; what stands there is known without."
          ))
        unit += own.length
        continue
      }
      let hole = unit
      repeat { unit += 1 } while unit < header.unitCount && own(unit) == nil && head(unit) == nil
      followsHole = true
      try body(Head(unit: hole, length: unit - hole, kind: nil))
      problems.append(
        HeapProblem(
          .extentHead, start(hole), extent: start(hole), byteCount: (unit - hole) << header.unitShift,
          "The head of an extent is damaged; \(unit - hole) units are set aside."))
    }
    progress?(header.unitCount, header.unitCount)
    return problems
  }

  /// All heads as an array.
  func run(heads: inout [Head]) -> [HeapProblem] {
    var found: [Head] = []
    // Collecting fails nowhere.
    let problems = try? run { (head) throws(NVMError) in found.append(head) }
    heads = found
    return problems ?? []
  }
}
