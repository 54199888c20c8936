/// What the command line asks for.
struct Arguments {
  enum Command: String {
    case kill, cut, check
  }
  var command = Command.kill
  var rounds = 500
  var seed: UInt64 = 1
  var threads = 3
  var control = false
  var directory: String?
  var diskDirectory = "/var/tmp"
  var diskEvery = 12
  var fileSystems: [String] = []
  var kinds: [String] = []
  /// Of the stores whose power is cut.
  var media: [StoreMedia] = []
  var dropEvery: Int?
  var keep: String?
  var json: String?
  var quiet = false
  /// Nil: 5, of a control all.
  var maximumViolations: Int?
  var checked: String?
  var help = false

  static let usage = """
    Usage: nvm-campaign kill [--rounds N] [options]     kills a process in mid-work with SIGKILL
           nvm-campaign cut  [--rounds N] [options]     cuts the power of a file system (root)
           nvm-campaign check DIRECTORY                 looks again at a round that failed

    A process with several threads works on a store at random: trees, transactions, blocks of the heap. It ends at a
    random moment; then the store must hold everything that was acknowledged, each operation that was under way wholly
    or not at all, and must verify. Exits with 0 if all is well, 1 if not, 2 for wrong arguments, 3 if the campaign
    itself cannot go on. What the machine does not permit is skipped, and said.

      --rounds N       how many (default: kill 500, cut 200)
      --seed S         default 1
      --threads N      writing threads, 1 to N of them (default 3)
      --control        plants an error (kill: acknowledges too early; cut: drops syncs): it must be found
      --keep DIR       where failed rounds are kept (default: nvm-campaign-failures)
      --json FILE      writes the summary there
      --violations N   stop after so many (default 5; a control: never)
      --quiet          no progress
    kill:
      --dir DIR        for stores on emulated persistent memory (default: /dev/shm)
      --disk-dir DIR   for stores in files, in place or with a journal (default: /var/tmp)
      --disk-every N   each N-th round is of that kind, 0: none (default 12)
    cut:
      --fs TYPE        ext4 or xfs; may be given several times (default: both)
      --kind KIND      sync (at an exact sync) or timed; may be given several times (default: both)
      --media MEDIUM   inplace, journaled, or emulated, which must lose; may be given several times
                       (default: inplace and journaled)
      --drop-every N   the control drops each N-th msync or synced write (default: 3 to 8)
    """

  struct Problem: Error {
    var text: String
  }

  init(_ words: [String]) throws(Problem) {
    var rest = words[...]
    guard let first = rest.popFirst() else { throw Problem(text: "Say kill, cut or check. See --help.") }
    if first == "--help" || first == "-h" {
      help = true
      return
    }
    guard let command = Command(rawValue: first) else {
      throw Problem(text: "There is no command “\(first)”. See --help.")
    }
    self.command = command
    if command == .cut { rounds = 200 }
    while let word = rest.popFirst() {
      switch word {
      case "--rounds": rounds = try Self.number(word, &rest)
      case "--seed": seed = UInt64(try Self.number(word, &rest))
      case "--threads":
        threads = try Self.number(word, &rest)
        guard (1...Board.maximumThreads).contains(threads) else {
          throw Problem(text: "--threads is 1 to \(Board.maximumThreads).")
        }
      case "--control": control = true
      case "--keep": keep = try Self.value(word, &rest)
      case "--json": json = try Self.value(word, &rest)
      case "--violations": maximumViolations = max(1, try Self.number(word, &rest))
      case "--quiet": quiet = true
      case "--dir": directory = try Self.value(word, &rest)
      case "--disk-dir": diskDirectory = try Self.value(word, &rest)
      case "--disk-every": diskEvery = try Self.number(word, &rest)
      case "--media":
        let name = try Self.oneOf(StoreMedia.allCases.map(\.rawValue), word, &rest)
        media += StoreMedia.allCases.filter { $0.rawValue == name }
      case "--drop-every": dropEvery = max(1, try Self.number(word, &rest))
      case "--fs": fileSystems.append(try Self.oneOf(["ext4", "xfs"], word, &rest))
      case "--kind": kinds.append(try Self.oneOf(["sync", "timed"], word, &rest))
      case "--help", "-h": help = true
      case _ where command == .check && checked == nil && !word.hasPrefix("-"): checked = word
      default: throw Problem(text: "There is no option “\(word)”. See --help.")
      }
    }
    if command == .check, checked == nil, !help { throw Problem(text: "Which directory is to be checked?") }
  }

  private static func value(_ option: String, _ rest: inout ArraySlice<String>) throws(Problem) -> String {
    guard let value = rest.popFirst() else { throw Problem(text: "\(option) needs a value.") }
    return value
  }

  private static func oneOf(
    _ values: [String], _ option: String, _ rest: inout ArraySlice<String>
  ) throws(Problem) -> String {
    let text = try value(option, &rest)
    guard values.contains(text) else {
      throw Problem(text: "\(option) is \(values.joined(separator: " or ")), not “\(text)”.")
    }
    return text
  }

  private static func number(_ option: String, _ rest: inout ArraySlice<String>) throws(Problem) -> Int {
    let text = try value(option, &rest)
    guard let number = Int(text), number >= 0 else {
      throw Problem(text: "\(option) needs a number, not “\(text)”.")
    }
    return number
  }
}
