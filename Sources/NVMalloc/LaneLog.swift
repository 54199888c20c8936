import CNVM
import NVMRegion

// The lanes, format 0: each a ring of 64-byte lines. A record is a run of lines (around the end of the ring):
//
// WORD  DESCRIPTION of a record's first line
//   0   magic 0x4C (0–7) | kind (8–15): 1 record, 2 record out of line, 3 marker, 4 covering record | sequence (16–63)
//   1   number of words (0–31) | check over all lines with these bits zero, place and UUID (32–63)
//  2–7  three (offset, value) pairs; out of line: offset of the pairs and a hash of them; covering: offset (0–47) and
//       bytes (48–63) of what was prepared and a hash of it, then the pairs
//       further lines: four pairs each, the last padded with zeroes
//
//     pairs flushed with the rest of what was prepared, order
//     record written, flush, fence                                  = committed
//     words stored, flush, order  →  marker in the next line, flush, order
//
// A covering record needs no order in front: it counts only where the hash holds, so that what was prepared and the
// record may reach the medium in any order. What it covers nobody else changes before the record is retired, but through
// its last word, a link that nobody is to follow yet. Should that link be found on the medium, the record was committed.
//
// Of the valid first lines of a lane the one with the highest sequence counts: a marker says that nothing is
// left to do, a record is carried out (again: storing the same words twice is harmless) and retired. A record
// never covers the line of the marker before it, so while it is being written the marker still counts.

/// The commit primitive for several words: its one interface. On media driven by cache lines or pages a record in a
/// lane; a journal puts one record of its own in that place.
///
/// Words named in a commit must be covered by a lock or claim of the caller until `commit` returns: then the
/// record is retired, and no replay can undo a later store.
final class LaneLog: @unchecked Sendable {
  static let line = 64
  private static let magic: UInt64 = 0x4C
  enum Kind: UInt64 {
    case record = 1
    case outOfLine = 2
    case marker = 3
    case covering = 4
  }
  /// Bytes on the medium that are flushed and that a record covers.
  struct Cover {
    var offset: Offset
    var count: Int
    static let longest = 512
  }

  /// A lane in memory.
  struct Lane {
    var sequence: UInt64 = 0
    /// 1 while held.
    var lock: UInt64 = 0
    /// The next line.
    var position = 0
    /// Whether this opening has used it.
    var isUsed = false
  }

  let region: PersistentRegion
  let offset: Offset
  let laneCount: Int
  let lineCount: Int
  let lanes: UnsafeMutablePointer<Lane>
  private let seed: UInt64
  /// How many commits each thread slot has made; only a hint.
  private let turns: UnsafeMutableRawPointer

  init(_ region: PersistentRegion, offset: Offset, laneCount: Int, laneSize: Int) {
    assert(MemoryLayout<LogWord>.stride == 16, "pairs stand on the medium as they are in memory")
    self.region = region
    self.offset = offset
    self.laneCount = laneCount
    lineCount = laneSize / Self.line
    lanes = .allocate(capacity: laneCount)
    lanes.initialize(repeating: Lane(), count: laneCount)
    seed = HeaderCheck(region.uuid).seed
    turns = .allocate(byteCount: Int(NVM_THREAD_SLOTS) * 8, alignment: 64)
    turns.initializeMemory(as: UInt8.self, repeating: 0, count: Int(NVM_THREAD_SLOTS) * 8)
  }
  deinit {
    lanes.deallocate()
    turns.deallocate()
  }

  func lock(_ index: Int) -> SpinLock { SpinLock(UnsafeMutableRawPointer(lanes + index) + 8) }

  /// How many words a record in the ring can hold.
  var capacity: Int { max(3 + 4 * (lineCount - 3), region.commitCapacity) }

  /// Makes `words` true as one atomic step, settled on return: durable once the region has acknowledged it. Orders what
  /// the calling thread has flushed before ahead of it.
  /// - Parameters:
  ///   - outOfLine: where `words` stand on the medium, flushed, if they are more than ``capacity``.
  ///   - cover: all that the calling thread has flushed since it last ordered or fenced; the last word leads to it.
  func commit(
    _ words: UnsafeBufferPointer<LogWord>, outOfLine: Offset? = nil, covering cover: Cover? = nil
  ) throws(NVMError) {
    if cover == nil, !region.isSettled { try region.order() }
    if words.count == 1 {
      region.store(words[0].value, at: Offset(rawValue: words[0].offset))
      region.flush(Offset(rawValue: words[0].offset), count: 8)
      return try region.settle()
    }
    // One record of a journal, and no lane.
    if region.commit(words) { return try region.settle() }
    let index = acquireLane()
    let lane = lanes + index
    defer { lock(index).unlock() }
    lane.pointee.isUsed = true
    if let cover {
      let hash = nvm_hash_bytes(seed ^ cover.offset.rawValue, region.pointer(to: cover.offset), cover.count)
      let head = LogWord(offset: cover.offset.rawValue | UInt64(cover.count) << 48, value: hash)
      withUnsafeTemporaryAllocation(of: LogWord.self, capacity: words.count + 1) { pairs in
        pairs.initializeElement(at: 0, to: head)
        for i in 0..<words.count { pairs.initializeElement(at: i + 1, to: words[i]) }
        append(index, .covering, words.count, UnsafeBufferPointer(pairs))
      }
    } else if let outOfLine {
      let hash = nvm_hash_bytes(seed, words.baseAddress, words.count * 16)
      let reference = LogWord(offset: outOfLine.rawValue, value: hash)
      withUnsafePointer(to: reference) {
        append(index, .outOfLine, words.count, UnsafeBufferPointer(start: $0, count: 1))
      }
    } else {
      append(index, .record, words.count, words)
    }
    try region.settle()  // committed
    apply(words)
    try region.order()
    append(index, .marker, 0, UnsafeBufferPointer(start: nil, count: 0))
    try region.order()
  }

  private func apply(_ words: UnsafeBufferPointer<LogWord>) {
    for word in words {
      region.store(word.value, at: Offset(rawValue: word.offset))
      region.flush(Offset(rawValue: word.offset), count: 8)
    }
  }

  private func acquireLane() -> Int {
    // A thread's lanes follow one another, each once round its ring, so that they wear evenly.
    let slot = Int(nvm_thread_slot())
    let turn = turns + slot * 8
    let round = Int(truncatingIfNeeded: nvm_load_relaxed(turn))
    nvm_store_relaxed(turn, UInt64(truncatingIfNeeded: round &+ 1))
    let first = (slot &+ (round &* 2) / lineCount) % laneCount
    for i in 0..<laneCount {
      let index = (first + i) % laneCount
      if lock(index).tryLock() { return index }
    }
    lock(first).lock()
    return first
  }

  private func lines(_ pairs: Int) -> Int { pairs <= 3 ? 1 : 1 + (pairs - 3 + 3) / 4 }

  private func place(_ lane: Int, _ position: Int) -> Offset {
    offset + (lane * lineCount + position % lineCount) * Self.line
  }

  /// Writes and flushes a record behind the last one.
  private func append(_ index: Int, _ kind: Kind, _ count: Int, _ pairs: UnsafeBufferPointer<LogWord>) {
    let lane = lanes + index
    let n = lines(pairs.count)
    assert(n <= lineCount - 2)
    let position = lane.pointee.position
    lane.pointee.sequence += 1
    let sequence = lane.pointee.sequence
    withUnsafeTemporaryAllocation(byteCount: n * Self.line, alignment: 8) { buffer in
      buffer.initializeMemory(as: UInt8.self, repeating: 0)
      let p = buffer.baseAddress!
      p.storeBytes(of: Self.magic | kind.rawValue << 8 | sequence << 16, as: UInt64.self)
      p.storeBytes(of: UInt64(count), toByteOffset: 8, as: UInt64.self)
      if let source = pairs.baseAddress { (p + 16).copyMemory(from: source, byteCount: pairs.count * 16) }
      let check = self.check(buffer, at: place(index, position))
      p.storeBytes(of: UInt64(count) | check << 32, toByteOffset: 8, as: UInt64.self)
      let first = min(n, lineCount - position)
      write(UnsafeRawBufferPointer(rebasing: buffer[..<(first * Self.line)]), place(index, position))
      if first < n {
        write(UnsafeRawBufferPointer(rebasing: buffer[(first * Self.line)...]), place(index, 0))
      }
    }
    lane.pointee.position = (position + n) % lineCount
  }
  private func write(_ bytes: UnsafeRawBufferPointer, _ at: Offset) {
    region.write(bytes, at: at)
    region.flush(at, count: bytes.count)
  }

  /// Over the lines of a record, whose check must be zero.
  private func check(_ lines: UnsafeMutableRawBufferPointer, at: Offset) -> UInt64 {
    UInt64(nvm_fold32(nvm_hash_bytes(seed ^ at.rawValue, lines.baseAddress, lines.count)))
  }

  // MARK: Recovery

  /// What the ring of a lane says.
  struct Found {
    var sequence: UInt64 = 0
    var end = 0
    /// The words of a record that was committed and not retired.
    var pending: [LogWord]?
    /// The last record leads out of line to something that does not verify.
    var isBroken = false
    /// The last record covers something that never came to be: it was not committed, and must not count later.
    var isVoid = false
  }

  /// Reads a lane. O(lines).
  func read(_ index: Int) -> Found {
    var found = Found()
    var best: (kind: Kind, count: Int, pairs: [LogWord])?
    for position in 0..<lineCount {
      guard let record = parse(index, position), record.sequence > found.sequence else { continue }
      found.sequence = record.sequence
      found.end = (position + lines(record.pairs.count)) % lineCount
      best = (record.kind, record.count, record.pairs)
    }
    guard let best else { return found }
    switch best.kind {
    case .marker: break
    case .record: found.pending = best.pairs
    case .covering:
      let words = Array(best.pairs.dropFirst())
      if isWhole(best.pairs[0], words) { found.pending = words } else { found.isVoid = true }
    case .outOfLine:
      let at = Offset(rawValue: best.pairs[0].offset)
      guard region.contains(at, count: best.count * 16), at.rawValue & 7 == 0,
        nvm_hash_bytes(seed, region.pointer(to: at), best.count * 16) == best.pairs[0].value
      else {
        found.isBroken = true
        break
      }
      found.pending = (0..<best.count).map {
        LogWord(offset: region.load(at + $0 * 16), value: region.load(at + $0 * 16 + 8))
      }
    }
    return found
  }

  /// Whether what a record covers is there, or was.
  private func isWhole(_ head: LogWord, _ words: [LogWord]) -> Bool {
    let at = Offset(rawValue: head.offset & 0xFFFF_FFFF_FFFF)
    let count = Int(head.offset >> 48)
    if region.contains(at, count: count),
      TrustedChecksum.logRecord.accepts(
        nvm_hash_bytes(seed ^ at.rawValue, region.pointer(to: at), count) == head.value)
    {
      return true
    }
    guard let link = words.last, link.offset & 7 == 0,
      region.contains(Offset(rawValue: link.offset), count: 8)
    else { return false }
    return region.load(Offset(rawValue: link.offset)) == link.value
  }

  private func parse(
    _ index: Int, _ position: Int
  ) -> (sequence: UInt64, kind: Kind, count: Int, pairs: [LogWord])? {
    let at = place(index, position)
    let word0 = region.load(at)
    guard word0 & 0xFF == Self.magic, let kind = Kind(rawValue: word0 >> 8 & 0xFF) else { return nil }
    let word1 = region.load(at + 8)
    let count = Int(word1 & 0xFFFF_FFFF)
    let pairCount =
      switch kind {
      case .record: count
      case .covering: count + 1
      case .outOfLine: 1
      case .marker: 0
      }
    guard lines(pairCount) <= lineCount - 2 else { return nil }
    let n = lines(pairCount)
    return withUnsafeTemporaryAllocation(byteCount: n * Self.line, alignment: 8) { buffer in
      for i in 0..<n {
        buffer.baseAddress!.advanced(by: i * Self.line)
          .copyMemory(from: region.pointer(to: place(index, position + i)), byteCount: Self.line)
      }
      buffer.baseAddress!.storeBytes(of: UInt64(count), toByteOffset: 8, as: UInt64.self)
      guard TrustedChecksum.logRecord.accepts(check(buffer, at: at) == word1 >> 32) else { return nil }
      let pairs = (0..<pairCount).map {
        LogWord(
          offset: buffer.load(fromByteOffset: 16 + 16 * $0, as: UInt64.self),
          value: buffer.load(fromByteOffset: 24 + 16 * $0, as: UInt64.self))
      }
      return (word0 >> 16, kind, count, pairs)
    }
  }

  /// Carries out what was committed and not retired, lane by lane. A crash meanwhile costs nothing: the same
  /// is done again. Returns the number of records replayed.
  func recover() throws(NVMError) -> Int {
    var replayed = 0
    for index in 0..<laneCount {
      let found = read(index)
      lanes[index].sequence = found.sequence
      lanes[index].position = found.end
      guard !found.isBroken else {
        throw NVMError(
          code: .corrupt,
          message: "A record of the heap's log is damaged, so an interrupted change cannot be "
            + "finished. Restore the file from a backup.", path: region.path,
          offset: (offset + index * lineCount * Self.line).rawValue)
      }
      guard let words = found.pending else {
        // What a crash left of a record is overwritten at once. Otherwise a later record in its place, torn by a
        // second crash, might lend it the words that it lacks: given up once, it would be carried out then.
        // Nor may a record count that covers what was never there, should the same bytes come to stand there.
        if found.isVoid || hasRemains(index, found.end) {
          append(index, .marker, 0, UnsafeBufferPointer(start: nil, count: 0))
          lanes[index].isUsed = true
        }
        continue
      }
      for word in words {
        let at = Offset(rawValue: word.offset)
        guard region.contains(at, count: 8), word.offset & 7 == 0 else {
          throw NVMError(
            code: .corrupt, message: "A record of the heap's log names a place outside the heap.",
            path: region.path, offset: word.offset)
        }
      }
      words.withUnsafeBufferPointer { apply($0) }
      try region.order()
      append(index, .marker, 0, UnsafeBufferPointer(start: nil, count: 0))
      lanes[index].isUsed = true
      replayed += 1
    }
    try region.settle()
    return replayed
  }

  /// Whether the line at `position` holds something that is no record.
  private func hasRemains(_ index: Int, _ position: Int) -> Bool {
    let at = place(index, position)
    return (0..<Self.line / 8).contains { region.load(at + $0 * 8) != 0 } && parse(index, position) == nil
  }

  /// Writes one more marker into each lane that was used, so that two lines would have to rot before an old
  /// record counts again.
  func seal() throws(NVMError) {
    for index in 0..<laneCount {
      lock(index).lock()
      if lanes[index].isUsed { append(index, .marker, 0, UnsafeBufferPointer(start: nil, count: 0)) }
      lock(index).unlock()
    }
    try region.settle()
  }
}
