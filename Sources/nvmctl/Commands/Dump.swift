import ArgumentParser
import NVM

struct Dump: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Print all entries of a tree, as load reads them.",
    discussion: """
      nvmctl dump app.nvm > app.tsv; nvmctl load other.nvm app.tsv

      Damage ends it, with status 4. With --salvage it goes on behind: all that can still be read is printed, each damaged \
      place is named on standard error, and the status is 4 nonetheless. A tree whose name is lost is called "tree N" \
      (nvmctl list --salvage).
      """)

  @OptionGroup var file: StoreArguments
  @OptionGroup var target: TreeArguments
  @Option(help: "tsv, csv or jsonl.")
  var format = EntryFormat.tsv
  @Flag(help: "Go on behind damage.")
  var salvage = false

  func run() throws {
    if salvage { return try printWhatIsLeft() }
    try file.withStore(writing: false) { store in
      let tree = try TextTree(store, target.tree)
      var output = Output()
      try tree.tree.scan { key, value in
        try output.line(line(of: tree, key, value))
        return true
      }
      try output.flush()
    }
  }

  private func printWhatIsLeft() throws {
    try file.withSalvage { store in
      let tree = TextTree(try store.tree(named: target.tree))
      var output = Output()
      var damaged = 0
      func report(_ error: any Error) {
        damaged += 1
        Terminal.writeError("nvmctl: \(error)\n")
      }
      try tree.tree.salvage(onDamage: report) { key, value in
        let text: String
        do {
          text = try line(of: tree, key, value)
        } catch {
          report(error)
          return true
        }
        try output.line(text)
        return true
      }
      try output.flush()
      return damaged
    }
  }

  private func line(of tree: TextTree, _ key: [UInt8], _ value: [UInt8]) throws -> String {
    format.line(try tree.key.decode(key), try tree.value.decode(value), tree)
  }
}
