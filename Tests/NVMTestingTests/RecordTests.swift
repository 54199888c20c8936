import NVMRegion
import NVMTesting
import XCTest

/// Mistakes with records of several words: what is not one word changes step by step.
final class RecordTests: XCTestCase {
  enum Flaw: Sendable {
    case none, twoWordsAtomic, arrayAndCount, checksumApart, paddingUnderChecksum, countNotRebuilt
    case tornVersionLeft
  }

  /// A point (x, y) in two versions, each with a sequence number and a checksum in its line; the valid one
  /// with the higher sequence holds. What a crash left of a version is erased at open: it must not be completed
  /// by words of a later one. A separate
  /// line counts the updates; it is only a hint, rebuilt at open.
  final class Record: @unchecked Sendable {
    let region: PersistentRegion
    let flaw: Flaw
    var sequence: UInt64 = 0
    var count: UInt64 = 0

    init(_ region: PersistentRegion, _ flaw: Flaw) { (self.region, self.flaw) = (region, flaw) }

    func line(_ i: UInt64) -> Offset { region.payloadStart + Int(i & 1) * 64 }
    var counter: Offset { region.payloadStart + 128 }
    /// An array of numbers with its count before it.
    var array: Offset { region.payloadStart + 192 }

    static func check(_ words: [UInt64]) -> UInt64 {
      words.reduce(0x51) { ($0 ^ $1) &* 0x9E37_79B9_7F4A_7C15 ^ ($0 >> 29) }
    }

    static func create(_ region: PersistentRegion, _ flaw: Flaw) throws -> Record {
      let record = Record(region, flaw)
      try record.set(0, 0)
      return record
    }

    static func open(_ region: PersistentRegion, _ flaw: Flaw) throws -> Record {
      let record = Record(region, flaw)
      for i in 0..<2 as Range<UInt64> {
        let words = record.words(i)
        guard words[0] > record.sequence, words[4] == check(Array(words[..<4])) else { continue }
        record.sequence = words[0]
        record.count = words[3]
      }
      if flaw == .twoWordsAtomic { record.sequence = 2 }
      if flaw == .checksumApart || flaw == .paddingUnderChecksum {
        record.sequence = 2
        guard region.load(record.counter + 8) == check(Array(record.words(0)[1..<3])) else {
          throw Failure(text: "the checksum does not fit")
        }
      }
      guard record.sequence > 0 else { throw Failure(text: "no version is valid") }
      if flaw != .tornVersionLeft, record.hasVersions {
        region.fill(record.line(record.sequence + 1), count: 64)
        try region.persist(record.line(record.sequence + 1), count: 64)
      }
      if flaw == .countNotRebuilt { record.count = region.load(record.counter) }
      return record
    }

    func words(_ i: UInt64) -> [UInt64] { (0..<5).map { region.load(line(i) + $0 * 8) } }

    private var hasVersions: Bool {
      flaw != .twoWordsAtomic && flaw != .checksumApart && flaw != .paddingUnderChecksum
    }

    var point: [UInt64] {
      let words = words(hasVersions ? sequence : 0)
      let n = Int(region.load(array))
      let elements = (0..<min(n, 7)).map { region.load(array + 8 + $0 * 8) }
      return [words[1], words[2], count] + elements
    }

    func set(_ x: UInt64, _ y: UInt64) throws {
      switch flaw {
      case .twoWordsAtomic:
        region.store(x, at: line(0) + 8)
        region.store(y, at: line(0) + 16)
        try region.persist(line(0), count: 32)
        sequence = 2
      case .checksumApart, .paddingUnderChecksum:
        region.store(x, at: line(0) + 8)
        region.store(y, at: line(0) + 16)
        region.flush(line(0), count: 32)
        // Three bytes of padding after a small field, as they happened to be in memory.
        let garbage: UInt64 = flaw == .paddingUnderChecksum && x != 0 ? 0xA5 : 0
        region.store(Self.check([x, y]) ^ garbage, at: counter + 8)
        try region.persist(counter, count: 16)
        sequence = 2
      default:
        let next = sequence + 1
        let words = [next, x, y, count + 1]
        (words + [Self.check(words)]).withUnsafeBytes { region.write($0, at: line(next)) }
        try region.persist(line(next), count: 40)
        sequence = next
        count += 1
        if flaw == .countNotRebuilt { try region.storeDurable(count, at: counter) }
      }
    }

    func append(_ value: UInt64) throws {
      let n = region.load(array)
      if flaw == .arrayAndCount {
        // One write of count and elements, taken to be atomic because it is one line.
        var words = (0...Int(n)).map { region.load(array + $0 * 8) } + [value]
        words[0] = n + 1
        words.withUnsafeBytes { region.write($0, at: array) }
      } else {
        // Stores to one line reach the medium in program order.
        region.store(value, at: array + 8 + Int(n) * 8)
        region.store(n + 1, at: array)
      }
      try region.persist(array, count: 64)
    }
  }

  struct Failure: Error { var text: String }

  private func explore(_ flaw: Flaw) -> CrashReport {
    let counts = [.none, .arrayAndCount, .countNotRebuilt, .tornVersionLeft].contains(flaw)
    func set(_ x: UInt64, _ y: UInt64) -> CrashOperation<Record, [UInt64]> {
      CrashOperation("set") {
        try $0.set(x, y)
      } model: {
        $0[0] = x
        $0[1] = y
        if counts { $0[2] += 1 }
      }
    }
    func append(_ value: UInt64) -> CrashOperation<Record, [UInt64]> {
      CrashOperation("append") {
        try $0.append(value)
      } model: {
        $0.append(value)
      }
    }
    var scenario = CrashScenario<Record, [UInt64]>(
      "record-\(flaw)", create: { try Record.create($0, flaw) }, open: { try Record.open($0, flaw) },
      observe: { $0.point }, operations: [set(1, 1), append(5), set(2, 2), append(6), set(3, 3)])
    scenario.regionSize = 12 << 10
    scenario.continuation = [set(8, 8)]
    var options = CrashOptions()
    options.maximumViolations = 1
    if flaw == .none { options.maximumImages = 1500 }
    return CrashExplorer(options).explore(scenario)
  }

  func testRightRecordPasses() throws { try explore(.none).check() }
  func testTwoWordsAssumedAtomic() {
    XCTAssertEqual(explore(.twoWordsAtomic).violations.first?.kind, .wrongState)
  }
  func testArrayAndItsCount() { XCTAssertEqual(explore(.arrayAndCount).violations.first?.kind, .wrongState) }
  func testChecksumNotChangedTogetherWithData() {
    XCTAssertEqual(explore(.checksumApart).violations.first?.kind, .refused)
  }
  func testPaddingUnderChecksum() { XCTAssertFalse(explore(.paddingUnderChecksum).violations.isEmpty) }
  func testSecondCrashCompletesWhatTheFirstTore() throws {
    let found = try XCTUnwrap(explore(.tornVersionLeft).violations.first)
    XCTAssertTrue(found.crashPoint.contains("inside recovery"), found.description)
  }
  func testDerivedCountNotRebuilt() {
    XCTAssertEqual(explore(.countNotRebuilt).violations.first?.kind, .wrongState)
  }
}
