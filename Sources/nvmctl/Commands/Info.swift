import ArgumentParser
import NVM

struct Info: ParsableCommand {
  static let configuration = CommandConfiguration(abstract: "Show what a store is: file, medium, trees.")

  @OptionGroup var file: StoreArguments

  func run() throws {
    try file.withStore(writing: false) { store in
      let region = store.region
      var output = Output()
      try output.line("file          \(store.path)")
      try output.line("size          \(region.size.asSize) (\(region.size.grouped) bytes)")
      try output.line("medium        \(store.media)")
      try output.line("identity      \(region.uuid)")
      try output.line(
        "last closed   \(store.recovery.wasCleanlyClosed ? "properly" : "by a crash, or in use then")")
      try output.line("openings      \(region.incarnation) for writing")
      try output.line("trees         \(store.treeNames.count)")
      let heap = store.statistics.heap
      try output.line("in use        \(heap.liveBytes.asSize) in \(heap.liveBlocks.grouped) blocks")
      try output.line("free          \(heap.freeBytes.asSize)")
      try output.flush()
    }
  }
}
