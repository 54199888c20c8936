import ArgumentParser
import NVM

struct Create: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Make a store with a tree, or one more tree in a store.",
    discussion: """
      The file appears complete or not at all. Its size is really allocated, and it grows as it fills.

      nvmctl create app.nvm --value-type Int
      nvmctl create app.nvm --tree visits --key-type '(String,Date)' --value-type UInt32
      """)

  @OptionGroup var file: StoreArguments
  @OptionGroup var target: TreeArguments
  @Option(help: "The type of the keys: \(KnownType.list), or a pair or triple of these in parentheses.")
  var keyType = "String"
  @Option(help: "The type of the values: \(KnownType.list).")
  var valueType = "String"
  @Option(help: "The size of a new file: 64M, 2G, …")
  var size: ByteCount?

  func run() throws {
    guard let key = KnownType.key(keyType) else {
      throw ToolError(
        .usage, "\"\(keyType)\" is no key type. There are \(KnownType.list), and (A,B), (A,B,C).")
    }
    guard let value = KnownType.value(valueType) else {
      throw ToolError(.usage, "\"\(valueType)\" is no value type. There are \(KnownType.list).")
    }
    var options = file.options
    if let size { options.initialSize = size.bytes }
    let store = try NVMStore(path: file.store, options: options)
    do {
      guard !store.hasTree(named: target.tree) else {
        throw ToolError(
          .failure, "\(file.store): There is a tree \"\(target.tree)\" already. Choose another name.")
      }
      try make(store, key, value)
    } catch {
      try? store.close()
      throw error
    }
    try store.close()
  }

  private func make<Key: TextKey, Value: TextValue>(
    _ store: NVMStore, _ key: Key.Type, _ value: Value.Type
  ) throws {
    _ = try store.tree(target.tree, of: key, value)
  }
}
