import ArgumentParser
import NVM

/// What every command takes.
struct StoreArguments: ParsableArguments {
  @Argument(help: "The file of the store.")
  var store: String

  @Option(
    help:
      "How the file is driven: auto, emulated (memory counts as persistent: for tmpfs), journaled or inplace."
  )
  var media = Media.auto

  enum Media: String, ExpressibleByArgument, CaseIterable {
    case auto, emulated, journaled, inplace
  }

  var options: NVMStoreOptions {
    var options = NVMStoreOptions()
    // Rather no answer than a wrong one.
    options.verifiesReads = true
    options.media =
      switch media {
      case .auto: .automatic
      case .emulated: .emulated
      case .journaled: .journaledFile
      case .inplace: .inPlaceFile
      }
    return options
  }

  /// Opens what is left of a store that may be damaged. What is lost of the store itself is told of on standard error;
  /// `body` tells of what else it meets, and returns how much that was.
  /// - Throws: an error with the status for damage, if there was any.
  func withSalvage(_ body: (StoreSalvage) throws -> Int) throws {
    let bar = ProgressBar("opening")
    let salvage = try StoreSalvage(path: store, options: options) { bar.update($0) }
    bar.finish()
    defer { salvage.close() }
    for damage in salvage.damage { Terminal.writeError("nvmctl: \(store): \(damage)\n") }
    let damaged = try salvage.damage.count + body(salvage)
    guard damaged == 0 else {
      throw ToolError(.corrupt, "\(store): \(damaged) damaged place\(damaged == 1 ? "" : "s") passed over.")
    }
  }

  /// Opens the store, which must exist, and closes it when `body` is done.
  func withStore<Result>(writing: Bool, _ body: (NVMStore) throws -> Result) throws -> Result {
    var options = options
    if !writing { options.access = .readOnly }
    let bar = ProgressBar("opening")
    let store = try NVMStore.open(path: store, options: options) { bar.update($0) }
    bar.finish()
    let result: Result
    do {
      result = try body(store)
    } catch {
      try? store.close()
      throw error
    }
    try store.close()
    return result
  }
}

/// The tree that a command works on.
struct TreeArguments: ParsableArguments {
  @Option(help: "The tree to work on.")
  var tree = "main"
}

/// An open tree with the text forms of its types.
struct TextTree {
  let tree: EncodedTree
  let key: TextCoder
  let value: TextCoder

  init(_ store: NVMStore, _ name: String) throws {
    let bar = ProgressBar("recovering \(name)")
    // Called from several threads, so it only draws.
    let tree = try store.encodedTree(named: name)
    bar.finish()
    self.init(tree)
  }

  init(_ tree: EncodedTree) {
    self.tree = tree
    key = TextCoder(key: tree.keyTypeName)
    value = TextCoder(value: tree.valueTypeName)
  }
}

/// A number of bytes as people write it: 64M, 2G, 65536.
struct ByteCount: ExpressibleByArgument {
  var bytes: Int

  init?(argument: String) {
    var digits = argument.uppercased()
    if digits.hasSuffix("IB") { digits.removeLast(2) } else if digits.hasSuffix("B") { digits.removeLast() }
    var shift = 0
    if let unit = digits.last, let index = "KMGT".firstIndex(of: unit) {
      shift = 10 * ("KMGT".distance(from: "KMGT".startIndex, to: index) + 1)
      digits.removeLast()
    }
    guard let count = Int(digits), count > 0, count <= Int.max >> (shift + 1) else { return nil }
    bytes = count << shift
  }
}
