import ArgumentParser
import NVM

struct List: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "List the trees of a store: name, types, entries.",
    discussion: "One tree a line, separated by tabs: name, key type, value type, number of entries.")

  @OptionGroup var file: StoreArguments
  @Flag(help: "List what is left of a damaged store, with the number of entries that can be read.")
  var salvage = false

  func run() throws {
    var output = Output()
    func line(_ name: String, _ key: String, _ value: String, _ count: Int) throws {
      try output.line("\(EntryFormat.escaped(name))\t\(key)\t\(value)\t\(count)")
    }
    if salvage {
      try file.withSalvage { store in
        var damaged = 0
        for tree in store.trees {
          var count = 0
          try store.tree(named: tree.name).salvage(onDamage: { _ in damaged += 1 }) { _, _ in
            count += 1
            return true
          }
          try line(tree.name, tree.keyTypeName, tree.valueTypeName, count)
        }
        try output.flush()
        return damaged
      }
      return
    }
    try file.withStore(writing: false) { store in
      for tree in try store.trees {
        try line(tree.name, tree.keyTypeName, tree.valueTypeName, tree.count)
      }
      try output.flush()
    }
  }
}
