import ArgumentParser
import NVM

struct Scan: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Print the entries of a range in key order.",
    discussion: """
      nvmctl scan app.nvm --from b --to f            keys from b, itself included, up to f, itself not
      nvmctl scan app.nvm --reverse --limit 3        the last three
      """)

  @OptionGroup var file: StoreArguments
  @OptionGroup var target: TreeArguments
  @Option(help: "The first key; all from the beginning if not given.")
  var from: String?
  @Option(help: "The key before which the range ends; all to the end if not given.")
  var to: String?
  @Option(help: "The most entries to print.")
  var limit: Int?
  @Flag(help: "From the end of the range to its beginning.")
  var reverse = false
  @Option(help: "tsv, csv or jsonl.")
  var format = EntryFormat.tsv

  func validate() throws {
    if let limit, limit < 0 { throw ValidationError("--limit takes a number from 0 up.") }
  }

  func run() throws {
    try file.withStore(writing: false) { store in
      let tree = try TextTree(store, target.tree)
      var left = limit ?? Int.max
      var output = Output()
      guard left > 0 else { return }
      try tree.tree.scan(
        from: try from.map(tree.key.encode), to: try to.map(tree.key.encode), reverse: reverse
      ) { key, value in
        try output.line(format.line(try tree.key.decode(key), try tree.value.decode(value), tree))
        left -= 1
        return left > 0
      }
      try output.flush()
    }
  }
}
