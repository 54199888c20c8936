import ArgumentParser
import NVM

struct List: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "List the trees of a store: name, types, entries.",
    discussion: "One tree a line, separated by tabs: name, key type, value type, number of entries.")

  @OptionGroup var file: StoreArguments

  func run() throws {
    try file.withStore(writing: false) { store in
      var output = Output()
      for tree in try store.trees {
        try output.line(
          "\(EntryFormat.escaped(tree.name))\t\(tree.keyTypeName)\t\(tree.valueTypeName)\t\(tree.count)")
      }
      try output.flush()
    }
  }
}
