import ArgumentParser
import NVM

struct Dump: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Print all entries of a tree, as load reads them.",
    discussion: "nvmctl dump app.nvm > app.tsv; nvmctl load other.nvm app.tsv")

  @OptionGroup var file: StoreArguments
  @OptionGroup var target: TreeArguments
  @Option(help: "tsv, csv or jsonl.")
  var format = EntryFormat.tsv

  func run() throws {
    try file.withStore(writing: false) { store in
      let tree = try TextTree(store, target.tree)
      var output = Output()
      try tree.tree.scan { key, value in
        try output.line(format.line(try tree.key.decode(key), try tree.value.decode(value), tree))
        return true
      }
      try output.flush()
    }
  }
}
