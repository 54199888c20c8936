import NVMTesting

/// What the command line asks for.
struct Arguments {
  var images: Int?
  var seed: UInt64 = 1
  var scenarios: [String] = []
  var models: [CrashModel] = []
  var mutants = false
  var everyCall = false
  var json: String?
  var lists = false
  var lints = false
  var help = false

  static let usage = """
    Usage: nvm-explore [options]

    Explores what a crash at any moment leaves of swift-nvm's own structures, and checks that every such
    state recovers. Exits with 0 if it does, 1 if not (or if a mutant survives without excuse), 2 for wrong
    arguments, 75 if a recovery hangs.

      --images N       check about N images in all; seeded scenarios are repeated with further seeds. Of each
                       mutant N in each scenario, 3000 at most
      --seed S         the first seed (default 1)
      --scenario NAME  only scenarios whose name contains NAME; may be given several times
      --model MODEL    cacheline, autoflush, inplace or journaled; may be given several times (default: all)
      --mutants        leave out each flush and each fence in turn and see that it is noticed
      --every-call     with --mutants: each single call too, not only each line of code
      --lints          print flushes and fences that the rules call missing or wasted, and costs
      --json FILE      write the results there
      --list           print the scenarios' names
      --help           print this
    """

  struct Problem: Error {
    var text: String
  }

  init(_ words: [String]) throws(Problem) {
    var rest = words[...]
    while let word = rest.popFirst() {
      switch word {
      case "--images": images = try Self.number(word, &rest)
      case "--seed": seed = UInt64(try Self.number(word, &rest))
      case "--scenario": scenarios.append(try Self.value(word, &rest))
      case "--model":
        let name = try Self.value(word, &rest)
        guard let model = CrashModel(rawValue: name) else {
          throw Problem(
            text: "There is no model “\(name)”. Models are cacheline, autoflush, inplace and journaled.")
        }
        models.append(model)
      case "--mutants": mutants = true
      case "--every-call": everyCall = true
      case "--lints": lints = true
      case "--json": json = try Self.value(word, &rest)
      case "--list": lists = true
      case "--help", "-h": help = true
      default: throw Problem(text: "There is no option “\(word)”. See --help.")
      }
    }
  }

  private static func value(_ option: String, _ rest: inout ArraySlice<String>) throws(Problem) -> String {
    guard let value = rest.popFirst() else { throw Problem(text: "\(option) needs a value.") }
    return value
  }

  private static func number(_ option: String, _ rest: inout ArraySlice<String>) throws(Problem) -> Int {
    let text = try value(option, &rest)
    guard let number = Int(text), number >= 0 else {
      throw Problem(text: "\(option) needs a number, not “\(text)”.")
    }
    return number
  }
}
