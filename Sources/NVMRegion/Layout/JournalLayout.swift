import CNVM

// The journal, format 0: an area of the file between the superblocks and the payload.
//
//     journal offset   + 4096      + 8192                                          + journal size
//     | header copy A  | header B  | ring                                          | payload …
//
// A position counts bytes since the opening that began the journal; in the ring it stands at position modulo the
// ring's size, and what would run over the end goes on at the start.
//
// HEADER, alone in its 4 KiB block, two copies, the valid one with the higher sequence holds
//  0   8  magic "nvmJRNL0"
//  8   8  sequence
// 16   8  incarnation: of the opening that writes; batches of any other are not of this journal
// 24   8  start: position of the first batch that has not been written home
// 32   8  check of the batch before it (at first a number made of UUID and incarnation)
// 40   8  check of bytes 0 ..< 40, keyed by the UUID
//
// BATCH, at a multiple of 8: what one sync makes durable. A batch counts whole or not at all
//  0   8  position
//  8   8  check of the batch before: the chain
// 16   4  length of the records in bytes
// 20   4  incarnation, low half
// 24   8  check of bytes 0 ..< 24 and of the records, keyed by the UUID and the incarnation
// 32      records, then zeroes up to a multiple of 8; and, as far as that is free, of 4096
//
// RECORD: words that were flushed together
//   varint: zigzag(place - end of the record before it, in words; of the first, place) << 3 | n
//           n = 1–7: so many words. n = 0: a varint with their number follows
//   the words, as they were in memory
//
// A varint has seven bits a byte, the lowest first, bit 7 set in all but the last.

enum JournalLayout {
  static let magic: UInt64 = 0x304C_4E52_4A6D_766E  // "nvmJRNL0"
  static let headerSize = 48
  static let headerStride = 4096
  static let ringOffset = 2 * headerStride
  static let batchHeader = 32
  /// The least journal: the header and four pages of ring.
  static let minimumSize = ringOffset + 4 * 4096
  static let defaultSize = 64 << 20
  static let maximumSize = 1 << 30
  /// Most bytes of a record's header.
  static let recordHeader = 20
  /// Of the ring, always kept free: the zeroes behind a batch never reach the start.
  static let slack = 2 * 4096
}

/// The decoded header.
struct JournalHeader: Equatable {
  var sequence: UInt64 = 1
  var incarnation: UInt64
  var start: UInt64 = 0
  var check: UInt64

  /// The header of a journal that begins: nothing stands in it.
  init(incarnation: UInt64, uuid: RegionUUID) {
    self.incarnation = incarnation
    check = nvm_mix2(incarnation ^ 0x9C61_4E5A_0DF1_37B5, uuid.high, uuid.low)
  }

  func encoded(_ uuid: RegionUUID) -> [UInt64] {
    var words = [JournalLayout.magic, sequence, incarnation, start, check, 0]
    words[5] = Self.check(words, uuid)
    return words
  }

  init?(_ words: [UInt64], _ uuid: RegionUUID) {
    guard words.count == 6, words[0] == JournalLayout.magic, words[5] == Self.check(words, uuid),
      words[3] & 7 == 0, words[3] < 1 << 62
    else { return nil }
    (sequence, incarnation, start, check) = (words[1], words[2], words[3], words[4])
  }

  private static func check(_ words: [UInt64], _ uuid: RegionUUID) -> UInt64 {
    words.withUnsafeBytes { nvm_hash_bytes(nvm_mix2(0x6A72_6E6C, uuid.high, uuid.low), $0.baseAddress, 40) }
  }
}

/// The head of a batch.
struct BatchHeader {
  var position: UInt64
  var previous: UInt64
  var length: UInt32
  var incarnation: UInt32

  /// Bytes of the whole batch.
  var size: Int { JournalLayout.batchHeader + (Int(length) + 7) & ~7 }

  init(position: UInt64, previous: UInt64, length: Int, incarnation: UInt64) {
    (self.position, self.previous, self.length) = (position, previous, UInt32(length))
    self.incarnation = UInt32(truncatingIfNeeded: incarnation)
  }

  init(_ p: UnsafeRawPointer) {
    position = p.load(as: UInt64.self)
    previous = p.load(fromByteOffset: 8, as: UInt64.self)
    length = p.load(fromByteOffset: 16, as: UInt32.self)
    incarnation = p.load(fromByteOffset: 20, as: UInt32.self)
  }

  /// Writes head and check before the records at `p + 32`; returns the check.
  func seal(_ p: UnsafeMutableRawPointer, key: UInt64) -> UInt64 {
    p.storeBytes(of: position, as: UInt64.self)
    p.storeBytes(of: previous, toByteOffset: 8, as: UInt64.self)
    p.storeBytes(of: length, toByteOffset: 16, as: UInt32.self)
    p.storeBytes(of: incarnation, toByteOffset: 20, as: UInt32.self)
    let check = Self.check(p, Int(length), key)
    p.storeBytes(of: check, toByteOffset: 24, as: UInt64.self)
    return check
  }

  static func check(_ p: UnsafeRawPointer, _ length: Int, _ key: UInt64) -> UInt64 {
    nvm_hash_bytes(
      nvm_hash_bytes(key, p, 24), p + JournalLayout.batchHeader, length)
  }
  static func key(_ uuid: RegionUUID, _ incarnation: UInt64) -> UInt64 {
    nvm_mix2(incarnation &+ 0x5E1F_BA7C, uuid.high, uuid.low)
  }
}

/// Puts records together.
enum JournalRecord {
  /// Writes the head of a record; returns its length.
  @inline(__always)
  static func encode(_ p: UnsafeMutableRawPointer, place: Int, after end: Int, count: Int) -> Int {
    let delta = place &- end
    let zigzag = UInt64(bitPattern: Int64((delta &<< 1) ^ (delta &>> 63)))
    var n = varint(p, zigzag &<< 3 | (count < 8 ? UInt64(count) : 0))
    if count >= 8 { n &+= varint(p + n, UInt64(count)) }
    return n
  }

  @inline(__always)
  private static func varint(_ p: UnsafeMutableRawPointer, _ value: UInt64) -> Int {
    var v = value
    var n = 0
    while v >= 128 {
      p.storeBytes(of: UInt8(truncatingIfNeeded: v) | 128, toByteOffset: n, as: UInt8.self)
      v &>>= 7
      n &+= 1
    }
    p.storeBytes(of: UInt8(truncatingIfNeeded: v), toByteOffset: n, as: UInt8.self)
    return n &+ 1
  }
}

/// Takes the records of a batch apart. What does not fit together ends it: `isSound` tells.
struct JournalRecords {
  private let base: UnsafeRawPointer
  private let count: Int
  /// Words that a record may name.
  private let allowed: Range<Int>
  private var at = 0
  private var end = 0
  private(set) var isSound = true

  init(_ records: UnsafeRawBufferPointer, allowed: Range<Int>) {
    base = records.baseAddress!
    count = records.count
    self.allowed = allowed
  }

  mutating func next() -> (place: Int, count: Int, words: UnsafeRawPointer)? {
    guard at < count, isSound else { return nil }
    guard let head = varint() else { return fail() }
    let zigzag = head >> 3
    let delta = Int(zigzag >> 1) ^ -Int(zigzag & 1)
    var words = Int(head & 7)
    if words == 0 {
      guard let many = varint(), many < 1 << 32 else { return fail() }
      words = Int(many)
    }
    let (place, overflow) = end.addingReportingOverflow(delta)
    guard !overflow, words > 0, words * 8 <= count - at, place >= allowed.lowerBound,
      place <= allowed.upperBound - words
    else { return fail() }
    defer { at += words * 8 }
    end = place + words
    return (place, words, base + at)
  }

  private mutating func fail() -> (place: Int, count: Int, words: UnsafeRawPointer)? {
    isSound = false
    return nil
  }

  private mutating func varint() -> UInt64? {
    var value: UInt64 = 0
    var shift: UInt64 = 0
    while at < count, shift < 63 {
      let byte = (base + at).load(as: UInt8.self)
      at += 1
      value |= UInt64(byte & 127) << shift
      if byte < 128 { return value }
      shift += 7
    }
    return nil
  }
}
