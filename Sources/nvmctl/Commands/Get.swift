import ArgumentParser
import NVM

struct Get: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Print the value of a key.", discussion: "Ends with status 1 when there is no such key.")

  @OptionGroup var file: StoreArguments
  @OptionGroup var target: TreeArguments
  @Argument(help: "The key.")
  var key: String

  func run() throws {
    try file.withStore(writing: false) { store in
      let tree = try TextTree(store, target.tree)
      guard let value = try tree.tree.value(forKey: try tree.key.encode(key)) else {
        throw missing(key, target.tree)
      }
      var output = Output()
      try output.line(try tree.value.decode(value))
      try output.flush()
    }
  }
}

func missing(_ key: String, _ tree: String) -> ToolError {
  ToolError(.notFound, "There is no key \"\(key)\" in the tree \"\(tree)\".")
}
