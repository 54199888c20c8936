import ArgumentParser
import NVM

struct Check: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Verify a whole store.",
    discussion: """
      Looks at every block of the heap, every leaf and record of every tree, and whether each block is free or \
      reachable. The file is opened read-only and left as it is; with --recover it is opened for writing first, \
      which finishes what a crash cut short. Ends with status 4 when something is wrong, and says where.
      """)

  @OptionGroup var file: StoreArguments
  @Flag(help: "Open the store for writing, so that recovery may finish its work.")
  var recover = false

  func run() throws {
    try file.withStore(writing: recover) { store in
      let bar = ProgressBar("checking")
      let report = try store.verify { bar.update($0) }
      bar.finish()
      var output = Output()
      for problem in report.problems { try output.line(problem) }
      try output.flush()
      guard report.isClean else {
        throw ToolError(
          .corrupt,
          "\(store.path): \(report.problems.count) problem\(report.problems.count == 1 ? "" : "s") found.")
      }
      let entries = report.trees.values.reduce(0) { $0 + $1.entries }
      try output.line(
        "\(store.path) is whole: \(report.trees.count) tree\(report.trees.count == 1 ? "" : "s"), "
          + "\(entries.grouped) entries, \(report.heap.liveBlocks.grouped) blocks, nothing lost.")
      try output.flush()
    }
  }
}
