import ArgumentParser
import NVM

struct Put: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Store a value for a key.",
    discussion: """
      The value may be -: then it is what standard input holds, without the last line's end. Keys and values that \
      begin with a minus sign go behind --, as in: nvmctl put app.nvm -- ada -5
      """)

  @OptionGroup var file: StoreArguments
  @OptionGroup var target: TreeArguments
  @Argument(help: "The key.")
  var key: String
  @Argument(help: "The value, or - for standard input.")
  var value: String

  func run() throws {
    let value = value == "-" ? try Self.standardInput() : value
    try file.withStore(writing: true) { store in
      let tree = try TextTree(store, target.tree)
      try tree.tree.setValue(try tree.value.encode(value), forKey: try tree.key.encode(key))
    }
  }

  private static func standardInput() throws -> String {
    let reader = try LineReader("-")
    var text = ""
    var end = ""
    while let line = try reader.next() {
      text += end + line
      end = reader.lineEnd
    }
    return text
  }
}
