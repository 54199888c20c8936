import Foundation
import NVM
import StoreTestModel
import XCTest

/// A child works on a store with two threads, trees and heap, and is killed in the middle of it: nothing that it
/// acknowledged may be missing, nothing else may be there, and nothing may leak.
final class KillTests: StoreTestCase {
  func testWorkersKilledInMidWork() throws { try killWorkers(220) }

  /// The same on a journaled file, protected from stray writes, with its wear counted.
  func testProtectionWearAndJournalTogether() throws {
    let region = try killWorkers(40, combined: true)
    XCTAssertEqual(region?.media, .journaledFile)
    XCTAssertEqual(region?.protection, .deferred(interval: .milliseconds(1)))
    XCTAssertEqual(region?.wear?.writes.contains { $0 > 0 }, true)
  }

  @discardableResult
  private func killWorkers(_ kills: Int, combined: Bool = false) throws -> PersistentRegion? {
    var last: PersistentRegion?
    var requests: UInt64 = 0
    let worker = try XCTUnwrap(Self.executable("StoreTestWorker"))
    let seed = UInt64.random(in: 0 ... .max)
    var random = SeededGenerator(seed: seed)
    var states = [WorkState](repeating: WorkState(), count: WorkStore.threads)
    var acknowledged = 0
    var inFlight = 0
    var replayed = 0
    for round in 0..<kills {
      let workSeed = random.next()
      // Every eighth is killed while it opens the store, or creates it.
      let count = round % 8 == 0 ? 0 : Int.random(in: 1...600, using: &random)
      let steps = try run(
        worker, workSeed, count, UInt32(random.next() % (count == 0 ? 25_000 : 1500)), combined: combined)
      acknowledged += steps.reduce(0, +)
      let what = "round \(round), seed \(seed)"

      let work = try WorkStore(path: path(), combined: combined)
      last = work.store.region
      if steps.reduce(0, +) > 0 { XCTAssertFalse(work.store.recovery.wasCleanlyClosed, what) }
      if work.store.recovery.replayedChanges > 0 { replayed += 1 }
      for thread in 0..<WorkStore.threads {
        for step in 0..<steps[thread] {
          states[thread].carryOut(Work(seed: workSeed, thread: thread, step: step))
        }
        // The step that was under way is done or not done.
        var next = states[thread]
        next.carryOut(Work(seed: workSeed, thread: thread, step: steps[thread]))
        let found = try work.state(thread: thread)
        if found != states[thread] {
          XCTAssertEqual(found, next, what)
          if found == next { inFlight += 1 }
        }
        states[thread] = found
      }
      let expected = states.reduce(0) { $0 + $1.numbers.count }
      XCTAssertEqual(work.numbers.count, expected, what)
      XCTAssertEqual(try work.blockCount(), states.count { $0.blockLength != nil }, what)
      requests += work.store.region.protectionStatistics.requests
      let report = try work.store.verify()
      XCTAssertEqual(report.problems, [], what)
      if round % 3 == 0 { try work.store.close() } else { work.store.abandon() }
      guard report.isClean, testRun?.failureCount == 0 else { return last }
    }
    XCTAssertGreaterThan(acknowledged, kills * 50)
    if combined { XCTAssertGreaterThan(requests, 0) }
    print(
      "\(kills) kills, \(acknowledged) steps acknowledged, \(inFlight) found done that were not, "
        + "\(replayed) transactions finished by recovery")
    return last
  }

  /// Starts a worker, kills it some time after it has acknowledged `count` steps; returns the steps of each thread.
  private func run(_ worker: String, _ seed: UInt64, _ count: Int, _ delay: UInt32, combined: Bool) throws
    -> [Int]
  {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: worker)
    process.arguments = [path(), String(seed)] + (combined ? ["combined"] : [])
    let pipe = Pipe()
    let errors = Pipe()
    process.standardOutput = pipe
    process.standardError = errors
    try process.run()
    try pipe.fileHandleForWriting.close()
    var bytes: [UInt8] = []
    while bytes.count < 4 * count {
      let more = pipe.fileHandleForReading.availableData
      if more.isEmpty { break }
      bytes += more
    }
    usleep(delay)
    kill(process.processIdentifier, SIGKILL)
    while true {
      let more = pipe.fileHandleForReading.availableData
      if more.isEmpty { break }
      bytes += more
    }
    process.waitUntilExit()
    if process.terminationReason != .uncaughtSignal || process.terminationStatus != SIGKILL {
      let text = String(decoding: errors.fileHandleForReading.availableData, as: UTF8.self)
      XCTFail("the worker ended by itself: \(process.terminationStatus), \(text)")
    }
    var steps = [Int](repeating: 0, count: WorkStore.threads)
    bytes.withUnsafeBytes { raw in
      for i in 0..<raw.count / 4 {
        let message = raw.loadUnaligned(fromByteOffset: 4 * i, as: UInt32.self)
        steps[Int(message >> 28)] = Int(message & 0xFFF_FFFF) + 1
      }
    }
    return steps
  }

  /// A program built beside the tests.
  static func executable(_ name: String) -> String? {
    var buffer = [CChar](repeating: 0, count: 4096)
    let n = readlink("/proc/self/exe", &buffer, buffer.count - 1)
    guard n > 0 else { return nil }
    let own = String(decoding: buffer[..<n].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    // The test bundle itself, or the runner of another toolchain that was given it.
    let candidates = [own, CommandLine.arguments.first { $0.hasSuffix(".xctest") } ?? own]
    return candidates.map {
      URL(fileURLWithPath: $0).deletingLastPathComponent().appendingPathComponent(name).path
    }
    .first { FileManager.default.isExecutableFile(atPath: $0) }
  }
}
