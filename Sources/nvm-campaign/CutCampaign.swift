import CNVMCut
import Glibc

/// Cuts the power of a file system under a store in an ordinary file, again and again: at an exact sync, with some of
/// the pages that were not synced written back, or at a random moment.
struct CutCampaign {
  private let arguments: Arguments
  private let board = Board()
  private var random: Random
  private var summary: Summary
  private let reporter: Reporter
  private let directory: String
  private var lives: [String: (life: Life, roundsLeft: Int)] = [:]

  init(_ arguments: Arguments) {
    self.arguments = arguments
    random = Random(arguments.seed)
    summary = Summary(campaign: "cut", seed: arguments.seed, isControl: arguments.control)
    reporter = Reporter(arguments)
    directory = "/tmp/nvm-cut-\(getpid())"
  }

  mutating func run() throws(CampaignError) -> Summary {
    let disks = makeDisks()
    defer {
      for disk in disks { disk.remove() }
      _ = nvm_cut_unmount(directory)
      rmdir(directory)
    }
    if disks.isEmpty { return summary }
    let begin = ContinuousClock.now
    while summary.rounds < arguments.rounds {
      let finding = try round(disks[summary.rounds % disks.count])
      summary.rounds += 1
      summary.seconds = seconds(since: begin)
      if reporter.note(finding, &summary, of: arguments.rounds) { break }
    }
    return summary
  }

  private mutating func makeDisks() -> [CutDisk] {
    var disks: [CutDisk] = []
    do throws(CutDisk.Refusal) {
      try CutDisk.prepare(directory)
    } catch {
      summary.skipped.append(error.reason)
      return []
    }
    for type in arguments.fileSystems.isEmpty ? ["ext4", "xfs"] : arguments.fileSystems {
      do throws(CutDisk.Refusal) {
        disks.append(try CutDisk(type: type, in: directory))
      } catch {
        summary.skipped.append(error.reason)
      }
    }
    return disks
  }

  /// One cut; what was wrong, or nil.
  private mutating func round(_ disk: CutDisk) throws(CampaignError) -> String? {
    var (life, left) = lives.removeValue(forKey: disk.type) ?? newLife(disk)
    let seed = random.next()
    board.reset(life.steps)
    let isExact = arguments.kinds.count == 1 ? arguments.kinds[0] == "sync" : !random.oneIn(3)
    var plan = CutPlan(directory: disk.mountPoint, seed: random.next())
    // While it opens, or later.
    if isExact { plan.at = random.oneIn(4) ? 1 + random.below(60) : random.below(60) + random.magnitude(500) }
    if arguments.control { plan.swallowEvery = 3 + random.below(6) }
    if random.oneIn(2) { plan.earlyEvery = 16 }
    var worker = Worker(path: life.path, media: life.media, seed: seed, from: life.steps, board: board)
    worker.hasReader = random.oneIn(2)
    worker.plan = plan
    let pid = try worker.start()
    let end = try isExact ? waitForCut(pid, disk) : cutLater(pid, disk)
    var finding: String?
    // After the cut a page that was never read cannot be: that ends the worker too.
    if end != .signal(SIGKILL), !board.frozen.isComplete || end != .signal(SIGBUS) {
      finding = board.message.isEmpty ? "the worker: \(end)" : board.message
    }
    let syncs = board.count(1)
    try disk.mountAgain()
    let referee = Referee(
      board: board, reporter: reporter, directory: disk.mountPoint, image: "\(directory)/copy",
      what: "round \(summary.rounds) of seed \(arguments.seed), \(disk.type), "
        + (isExact ? "cut at sync \(plan.at)" : "timed cut"),
      name: "cut-\(arguments.seed)-\(summary.rounds)", finding: finding, repeats: random.oneIn(3),
      plan: CutPlan(directory: disk.mountPoint))
    if let finding = try referee.judge(&life, seed: seed, &summary) { return finding }
    summary.count("on \(disk.type)")
    summary.count(isExact ? "at an exact sync" : "timed")
    summary.count("syncs", syncs)
    left -= 1
    if left > 0 { lives[disk.type] = (life, left) }
    return nil
  }

  private mutating func newLife(_ disk: CutDisk) -> (life: Life, roundsLeft: Int) {
    let life = Life(
      media: .inPlace, path: "\(disk.mountPoint)/store.nvm", threads: 1 + random.below(arguments.threads))
    return (life, 4 + random.below(24))
  }

  /// The shim cuts. Where it does not come to that sync in time, this cuts.
  private mutating func waitForCut(_ pid: Int32, _ disk: CutDisk) throws(CampaignError) -> ChildEnd {
    for _ in 0..<8000 {
      if let end = ChildEnd.ifAny(pid) { return end }
      usleep(250)
    }
    // Perhaps it has just begun to.
    if board.frozen.isComplete { return ChildEnd.of(pid) }
    return try cutNow(pid, disk)
  }

  private mutating func cutLater(_ pid: Int32, _ disk: CutDisk) throws(CampaignError) -> ChildEnd {
    if random.oneIn(5) {
      usleep(UInt32(random.below(10_000)))
    } else {
      while !board.promised.isSetUp {
        if let end = ChildEnd.ifAny(pid) { return end }
        usleep(100)
      }
      usleep(UInt32(random.magnitude(30_000)))
    }
    return try cutNow(pid, disk)
  }

  /// Only what was promised before the cut begins counts: a sync that races with it may return success for what is lost.
  private mutating func cutNow(_ pid: Int32, _ disk: CutDisk) throws(CampaignError) -> ChildEnd {
    board.freeze()
    try disk.cut(flushesLog: random.oneIn(2))
    kill(pid, SIGKILL)
    return ChildEnd.of(pid)
  }
}
