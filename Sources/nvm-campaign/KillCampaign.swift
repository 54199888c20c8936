import CNVMCut
import Glibc

/// Kills a worker in mid-work, or while it opens or makes the store, again and again.
struct KillCampaign {
  private let arguments: Arguments
  private let board = Board()
  private var random: Random
  private var summary: Summary
  private let reporter: Reporter
  private var lives: [StoreMedia: (life: Life, roundsLeft: Int)] = [:]

  init(_ arguments: Arguments) {
    self.arguments = arguments
    random = Random(arguments.seed)
    summary = Summary(campaign: "kill", seed: arguments.seed, isControl: arguments.control)
    reporter = Reporter(arguments)
  }

  /// Where a store of a medium stands.
  private func directory(_ media: StoreMedia) -> String {
    let parent =
      switch media {
      case .emulated: arguments.directory ?? (access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp")
      case .inPlace, .journaled: arguments.diskDirectory
      }
    return "\(parent)/nvm-kill-\(media.rawValue)-\(getpid())"
  }

  mutating func run() throws(CampaignError) -> Summary {
    for media in StoreMedia.allCases { makeDirectories(directory(media)) }
    defer {
      for media in StoreMedia.allCases {
        for name in names(in: directory(media)) { unlink("\(directory(media))/\(name)") }
        rmdir(directory(media))
      }
    }
    let begin = ContinuousClock.now
    while summary.rounds < arguments.rounds {
      let isOnDisk =
        arguments.diskEvery > 0 && summary.rounds % arguments.diskEvery == arguments.diskEvery - 1
      let finding = try round(isOnDisk ? random.oneIn(2) ? .inPlace : .journaled : .emulated)
      summary.rounds += 1
      summary.seconds = seconds(since: begin)
      if reporter.note(finding, &summary, of: arguments.rounds) { break }
    }
    return summary
  }

  /// One round; what was wrong, or nil.
  private mutating func round(_ media: StoreMedia) throws(CampaignError) -> String? {
    var (life, left) = lives.removeValue(forKey: media) ?? (newLife(media), 4 + random.below(24))
    let seed = random.next()
    board.reset(life.steps)
    var worker = Worker(path: life.path, media: media, seed: seed, from: life.steps, board: board)
    worker.hasReader = random.oneIn(2)
    worker.promisesEarly = arguments.control
    let pid = try worker.start()
    let early = letWork(pid)
    kill(pid, SIGKILL)
    let end = early ?? .of(pid)
    board.freeze()
    var finding: String?
    if end != .signal(SIGKILL) { finding = board.message.isEmpty ? "the worker: \(end)" : board.message }
    let referee = Referee(
      board: board, reporter: reporter, directory: directory(media), image: "\(directory(media))/image",
      what: "round \(summary.rounds) of seed \(arguments.seed), \(media.rawValue)",
      name: "kill-\(arguments.seed)-\(summary.rounds)", finding: finding, repeats: random.oneIn(3))
    if let finding = try referee.judge(&life, seed: seed, &summary) { return finding }
    if media != .emulated { summary.count("on disk") }
    left -= 1
    if left > 0 { lives[media] = (life, left) }
    return nil
  }

  private mutating func newLife(_ media: StoreMedia) -> Life {
    Life(media: media, path: "\(directory(media))/store.nvm", threads: 1 + random.below(arguments.threads))
  }

  /// Waits for the moment of the kill; how the worker ended if it did not wait for it.
  private mutating func letWork(_ pid: Int32) -> ChildEnd? {
    if random.oneIn(5) {
      usleep(UInt32(random.below(6000)))
      return nil
    }
    while !board.promised.isSetUp {
      if let end = ChildEnd.ifAny(pid) { return end }
      usleep(100)
    }
    usleep(UInt32(random.magnitude(16_000)))
    return nil
  }
}
