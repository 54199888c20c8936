import ArgumentParser
import NVM

struct Delete: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Remove a key with its value, or a whole tree.",
    discussion: "Ends with status 1 when there is no such key or tree.")

  @OptionGroup var file: StoreArguments
  @OptionGroup var target: TreeArguments
  @Argument(help: "The key.")
  var key: String?
  @Flag(help: "Remove the tree that --tree names, with all its entries.")
  var wholeTree = false

  func validate() throws {
    guard (key == nil) == wholeTree else {
      throw ValidationError("Give either a key or --whole-tree.")
    }
  }

  func run() throws {
    try file.withStore(writing: true) { store in
      guard let key else {
        try store.removeTree(named: target.tree)
        return
      }
      let tree = try TextTree(store, target.tree)
      guard try tree.tree.removeValue(forKey: try tree.key.encode(key)) else {
        throw missing(key, target.tree)
      }
    }
  }
}
