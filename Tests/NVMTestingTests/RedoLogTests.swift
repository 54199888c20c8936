import NVMRegion
import NVMTesting
import XCTest

/// Mistakes with a redo log and its recovery.
final class RedoLogTests: XCTestCase {
  enum Flaw: Sendable {
    case none, tornRecordBelieved, zeroRecordBelieved, staleRecordBelieved, deltasReplayed, retiredTooEarly
    case retiredBeforeApplied, recordNotFenced
  }

  /// Eight accounts, a line each, and one record that moves an amount between two of them.
  ///
  ///     payload  +0   record: sequence, from, new balance, to, new balance, checksum
  ///              +64  sequence of the last record applied and retired
  ///              +128 accounts
  final class Accounts: @unchecked Sendable {
    let region: PersistentRegion
    let flaw: Flaw

    init(_ region: PersistentRegion, _ flaw: Flaw) { (self.region, self.flaw) = (region, flaw) }

    var record: Offset { region.payloadStart }
    var retired: Offset { region.payloadStart + 64 }
    func account(_ i: UInt64) -> Offset { region.payloadStart + 128 + Int(i & 7) * 64 }
    var balances: [UInt64] { (0..<8).map { region.load(account($0)) } }

    static func check(_ words: ArraySlice<UInt64>, _ flaw: Flaw) -> UInt64 {
      words.reduce(flaw == .zeroRecordBelieved ? 0 : 0x51) { ($0 ^ $1) &* 0x9E37_79B9_7F4A_7C15 }
    }

    static func create(_ region: PersistentRegion, _ flaw: Flaw) throws -> Accounts {
      let accounts = Accounts(region, flaw)
      for i in 0..<8 as Range<UInt64> {
        region.store(100, at: accounts.account(i))
        region.flush(accounts.account(i), count: 8)
      }
      // With the flaw a record of zeros would be "sequence 0", so retirement starts lower there.
      region.store(flaw == .zeroRecordBelieved ? UInt64.max : 0, at: accounts.retired)
      region.flush(accounts.retired, count: 8)
      try region.fence()
      return accounts
    }

    static func open(_ region: PersistentRegion, _ flaw: Flaw) throws -> Accounts {
      let accounts = Accounts(region, flaw)
      try accounts.recover()
      return accounts
    }

    private func recover() throws {
      let words = (0..<6).map { region.load(record + $0 * 8) }
      let isWhole = flaw == .tornRecordBelieved || words[5] == Self.check(words[..<5], flaw)
      let isLive = flaw == .staleRecordBelieved ? words[0] != 0 : words[0] == region.load(retired) &+ 1
      guard isWhole, isLive else { return }
      if flaw == .retiredTooEarly {
        try region.storeDurable(words[0], at: retired)
      }
      try apply(words)
      if flaw != .retiredTooEarly { try region.storeDurable(words[0], at: retired) }
    }

    private func apply(_ words: [UInt64]) throws {
      for i in [1, 3] {
        var value = words[i + 1]
        // The record says by how much, not what the balance is afterwards.
        if flaw == .deltasReplayed { value = region.load(account(words[i])) &+ value }
        region.store(value, at: account(words[i]))
        region.flush(account(words[i]), count: 8)
      }
      if flaw != .retiredBeforeApplied { try region.order() }
    }

    func move(_ amount: UInt64, from: UInt64, to: UInt64) throws {
      var first = region.load(account(from)) &- amount
      var second = region.load(account(to)) &+ amount
      if flaw == .deltasReplayed { (first, second) = (0 &- amount, amount) }
      let words = [region.load(retired) &+ 1, from, first, to, second]
      let whole = words + [Self.check(words[...], flaw)]
      whole.withUnsafeBytes { region.write($0, at: record) }
      region.flush(record, count: 48)
      if flaw != .recordNotFenced { try region.fence() }
      try apply(words)
      region.store(words[0], at: retired)
      try region.persist(retired, count: 8)
    }

    /// One word, without the log.
    func set(_ i: UInt64, _ value: UInt64) throws { try region.storeDurable(value, at: account(i)) }
  }

  private func explore(_ flaw: Flaw) -> CrashReport {
    func move(_ amount: UInt64, _ from: UInt64, _ to: UInt64) -> CrashOperation<Accounts, [UInt64]> {
      CrashOperation("move") {
        try $0.move(amount, from: from, to: to)
      } model: {
        $0[Int(from)] &-= amount
        $0[Int(to)] &+= amount
      }
    }
    func set(_ i: UInt64, _ value: UInt64) -> CrashOperation<Accounts, [UInt64]> {
      CrashOperation("set") {
        try $0.set(i, value)
      } model: {
        $0[Int(i)] = value
      }
    }
    var scenario = CrashScenario<Accounts, [UInt64]>(
      "redo-log-\(flaw)", create: { try Accounts.create($0, flaw) }, open: { try Accounts.open($0, flaw) },
      observe: { $0.balances }, operations: [move(10, 1, 2), set(1, 7), move(5, 2, 3), move(1, 3, 1)])
    scenario.regionSize = 12 << 10
    scenario.continuation = [move(2, 4, 5), set(4, 1)]
    var options = CrashOptions()
    options.maximumViolations = 1
    if flaw == .none { options.maximumImages = 1500 }
    return CrashExplorer(options).explore(scenario)
  }

  func testRightLogPasses() throws {
    let report = explore(.none)
    try report.check()
    XCTAssertGreaterThan(report.images, 500)
  }
  func testTornRecordBelieved() { XCTAssertFalse(explore(.tornRecordBelieved).violations.isEmpty) }
  func testAllZeroRecordBelieved() {
    XCTAssertEqual(explore(.zeroRecordBelieved).violations.first?.kind, .wrongState)
  }
  func testStaleRecordUndoesALaterOperation() {
    XCTAssertFalse(explore(.staleRecordBelieved).violations.isEmpty)
  }
  func testRecoveryNotIdempotent() { XCTAssertFalse(explore(.deltasReplayed).violations.isEmpty) }
  func testRetiredBeforeApplyIsDurable() {
    XCTAssertEqual(explore(.retiredBeforeApplied).violations.first?.kind, .wrongState)
  }
  func testRecordNotFencedBeforeApply() { XCTAssertFalse(explore(.recordNotFenced).violations.isEmpty) }

  func testRecoveryThatOnlyASecondCrashHarms() throws {
    let found = try XCTUnwrap(explore(.retiredTooEarly).violations.first)
    XCTAssertTrue(found.crashPoint.contains("inside recovery"), found.description)
  }
}
