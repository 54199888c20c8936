import ArgumentParser
import NVM

struct Dump: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Print all entries of a tree, as load reads them.",
    discussion: """
      nvmctl dump app.nvm > app.tsv; nvmctl load other.nvm app.tsv

      Damage ends it, with status 4. With --salvage it goes on behind: all that can still be read is printed, each damaged \
      place is named on standard error, and the status is 4 nonetheless.
      """)

  @OptionGroup var file: StoreArguments
  @OptionGroup var target: TreeArguments
  @Option(help: "tsv, csv or jsonl.")
  var format = EntryFormat.tsv
  @Flag(help: "Go on behind damage.")
  var salvage = false

  func run() throws {
    try file.withStore(writing: false) { store in
      let tree = try TextTree(store, target.tree)
      var output = Output()
      var damaged = 0
      func report(_ error: NVMError) {
        damaged += 1
        Terminal.writeError("nvmctl: \(error)\n")
      }
      func print(_ key: [UInt8], _ value: [UInt8]) throws -> Bool {
        try output.line(format.line(try tree.key.decode(key), try tree.value.decode(value), tree))
        return true
      }
      if salvage { try tree.tree.salvage(onDamage: report, print) } else { try tree.tree.scan(print) }
      try output.flush()
      if damaged > 0 {
        throw ToolError(
          .corrupt, "\(store.path): \(damaged) damaged place\(damaged == 1 ? "" : "s") passed over.")
      }
    }
  }
}
