import ArgumentParser
import CBench
import Foundation
import NVMBTree
import NVMRegion
import NVMalloc
import PeerHeaps

struct RecoveryCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "recovery",
    abstract: "Opening again, to the first right answer, after a clean close and after SIGKILL.")
  @OptionGroup var options: Options

  func run() throws {
    try runSuite(options) { results, directory in
      let sizes = options.n.map { [$0] } ?? (options.quick ? [20_000] : [1_000_000, 5_000_000])
      try options.forEachRound(results) { _ in
        for n in sizes {
          for ending in ["clean close", "SIGKILL"] {
            // The floor keeps nothing that could be opened.
            for name in Stores.names.filter({ $0 != Stores.floor && $0 != Stores.twin }) + [
              RecoveryChild.heap, RecoveryChild.pool,
            ]
            where options.wants(peer: name) || name == RecoveryChild.heap {
              if name == RecoveryChild.pool && options.media != .emulated { continue }
              guard options.wants(workload: ending) else { continue }
              try measure(name, n, ending, results, directory)
            }
          }
        }
        try fullJournal(results, directory)
      }
    }
  }

  /// A process that dies with 64 MiB in its journal, as much as one of the standard size holds; and the opening that
  /// carries it out: with what the process left in the page cache, and, as after a power cut, from the disk.
  private func fullJournal(_ results: Results, _ directory: String) throws {
    guard options.media == .file else { return }
    let n = options.n ?? 1_000_000
    for isCold in [false, true] {
      let workload = "open a store, full journal" + (isCold ? ", nothing cached" : "")
      if options.wants(workload: workload) { try fullJournal(workload, n, isCold, results, directory) }
    }
  }

  private func fullJournal(
    _ workload: String, _ n: Int, _ isCold: Bool, _ results: Results, _ directory: String
  ) throws {
    let below = directory + "/recovery"
    try FileManager.default.createDirectory(atPath: below, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: below) }
    let used = Double(try child(["fill", ours, "\(n)", RecoveryChild.journal, below])) ?? 0
    let file = Stores.directory(ours, in: below) + "/store.nvm"
    if isCold { try dropFromCache(file) }
    let output = try child(["open", ours, "\(n)", "close", below])
    let fields = output.split(separator: " ").compactMap { UInt64($0) }
    guard fields.count == 2, used > 0 else {
      results.check(1, "no opening with a full journal: \(output)")
      return
    }
    results.check(fields[1], workload)
    let key = Results.Key(
      suite: "recovery", workload: workload, media: options.mediaName, threads: 1, n: n)
    results.add(key, ours, Sample(ns: fields[0], operations: 1))
    results.add(key, ours, extra: "MiB in the journal", used / 1_048_576)
  }

  private func dropFromCache(_ path: String) throws {
    let fd = Foundation.open(path, O_RDWR)
    guard fd >= 0 else { throw ExitCode.failure }
    defer { Foundation.close(fd) }
    guard fsync(fd) == 0, posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0 else { throw ExitCode.failure }
  }

  private func measure(_ name: String, _ n: Int, _ ending: String, _ results: Results, _ directory: String)
    throws
  {
    let below = directory + "/recovery"
    try FileManager.default.createDirectory(atPath: below, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: below) }
    _ = try child(["fill", name, "\(n)", ending == "SIGKILL" ? "kill" : "close", below])
    let output = try child(["open", name, "\(n)", "close", below])
    let fields = output.split(separator: " ").compactMap { UInt64($0) }
    guard fields.count == 2 else {
      results.check(1, "\(name) could not be opened after \(ending): \(output)")
      return
    }
    results.check(fields[1], "\(name) after \(ending)")
    let isHeap = name == RecoveryChild.heap || name == RecoveryChild.pool
    let key = Results.Key(
      suite: "recovery", workload: isHeap ? "open a heap, \(ending)" : "open a store, \(ending)",
      media: options.mediaName, threads: 1, n: n)
    results.add(key, name == RecoveryChild.heap ? ours : name, Sample(ns: fields[0], operations: 1))
  }

  /// Runs this program again; what it printed.
  private func child(_ arguments: [String]) throws -> String {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
    process.arguments = ["recovery-child"] + arguments + ["--media", options.media.rawValue]
    let pipe = Pipe()
    process.standardOutput = pipe
    try process.run()
    let data = pipe.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return String(decoding: data, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
  }
}

/// The process that fills a store and ends one way or the other, and the one that opens it.
struct RecoveryChild: ParsableCommand {
  static let configuration = CommandConfiguration(commandName: "recovery-child", shouldDisplay: false)
  static let heap = "swift-nvm heap"
  static let pool = "libpmemobj"
  /// How the process that fills ends: killed with much in its journal.
  static let journal = "journal"

  @Argument var task: String
  @Argument var name: String
  @Argument var n: Int
  @Argument var ending: String
  @Argument var directory: String
  @OptionGroup var options: Options

  private var space: KeySpace { KeySpace(seed: options.seed) }

  func run() throws {
    if name == Self.pool {
      let path = directory + "/pool"
      if task == "fill" {
        guard bench_pmemobj_fill(path, n, ending == "close" ? 1 : 0) == 1 else { throw ExitCode.failure }
        kill(getpid(), SIGKILL)
      }
      let began = bench_ns()
      let isRight = bench_pmemobj_open(path) == 1
      print(bench_ns() - began, isRight ? 0 : 1)
      return
    }
    if name == Self.heap { return task == "fill" ? try fillHeap() : try openHeap() }
    if task == "fill" { try fill() } else { try open() }
  }

  /// What stands in the journal when the process is killed: the ring of a store with the standard one.
  static let journalContent = 64 << 20

  /// A checkpoint begins when the ring is half full, so one of twice the size comes to hold that much every time.
  private func openWithLargeJournal() throws -> any StoreContestant {
    let own = Stores.directory(name, in: directory)
    try FileManager.default.createDirectory(atPath: own, withIntermediateDirectories: true)
    return try OurStore(
      path: own + "/store.nvm", name: name, media: options.mediaChoice, kind: .words, isOneCall: true,
      isTemporary: false, journalSize: 2 * Self.journalContent)
  }

  private func fill() throws {
    let opened =
      ending == Self.journal
      ? try openWithLargeJournal() : try Stores.open(name, in: directory, kind: .words, options: options)
    guard let store = opened, let session = store.session() else { throw ExitCode.failure }
    let keys = (0..<n).map { space.key($0) >> 1 }
    var outcome = bench_outcome()
    keys.withUnsafeBufferPointer {
      // Ours needs no transactions to be quick here; the file is the same, but for the heap's leftovers.
      var batch = bench_batch()
      batch.keys = $0.baseAddress!
      batch.count = n
      batch.op = UInt8(BENCH_INSERT)
      batch.per_commit = name == ours && options.media == .emulated ? 1 : 1000
      session.run(batch, &outcome)
    }
    if outcome.wrong > 0 { throw ExitCode.failure }
    if ending == Self.journal { try fillJournal(store, session, keys) }
    if ending == "kill" { kill(getpid(), SIGKILL) }
    session.end()
    store.close()
  }

  /// Changes values at random keys until so much waits to be brought home; says how many bytes, and dies.
  private func fillJournal(_ store: any StoreContestant, _ session: any StoreSession, _ keys: [UInt64]) throws
  {
    var outcome = bench_outcome()
    var random = Random(seed: options.seed &+ 3)
    while let journal = store.journal {
      if journal.used >= Self.journalContent {
        print(journal.used)
        fflush(nil)
        kill(getpid(), SIGKILL)
      }
      let some = (0..<10_000).map { _ in keys[Int.random(in: 0..<n, using: &random)] }
      some.withUnsafeBufferPointer {
        var batch = bench_batch()
        batch.keys = $0.baseAddress!
        batch.count = $0.count
        batch.op = UInt8(BENCH_UPDATE)
        batch.per_commit = UInt32($0.count)
        batch.version = UInt32(truncatingIfNeeded: journal.syncs)
        session.run(batch, &outcome)
      }
      if outcome.wrong > 0 { throw ExitCode.failure }
    }
    throw ExitCode.failure
  }

  private func open() throws {
    var outcome = bench_outcome()
    let began = bench_ns()
    guard let store = try Stores.open(name, in: directory, kind: .words, options: options),
      let session = store.session()
    else { throw ExitCode.failure }
    func look(_ range: [Int]) {
      let keys = range.map { space.key($0) >> 1 }
      keys.withUnsafeBufferPointer {
        var batch = bench_batch()
        batch.keys = $0.baseAddress!
        batch.count = keys.count
        batch.op = UInt8(BENCH_LOOKUP)
        session.run(batch, &outcome)
      }
    }
    look([n / 2])
    let ns = bench_ns() - began
    // The last that were acknowledged are there.
    look(Array(max(0, n - 10_000)..<n))
    print(ns, outcome.wrong)
    session.end()
    store.close()
  }

  private var heapPath: String { directory + "/heap.nvm" }

  private func fillHeap() throws {
    let region = try PersistentRegion.create(at: heapPath, size: 64 << 20, options: options.regionOptions)
    let heap = try PersistentHeap.format(region)
    for i in 0..<n {
      let block = try heap.allocate(byteCount: 64, durability: i % 64 == 63 ? .immediate : .deferred)
      if i == n / 2 { try heap.setRoot(block, named: "middle") }
    }
    try region.fence()
    if ending == "kill" { kill(getpid(), SIGKILL) }
    heap.close()
    try region.close()
  }

  private func openHeap() throws {
    let began = bench_ns()
    let region = try PersistentRegion.open(at: heapPath, options: options.regionOptions)
    let heap = try PersistentHeap.open(region)
    let block = try heap.allocate(byteCount: 64)
    let ns = bench_ns() - began
    let middle = try heap.root(named: "middle")
    let length = try middle.map { try heap.info(of: $0).length }
    print(ns, length == 64 && block != middle ? 0 : 1)
    heap.close()
    try region.close()
  }
}
