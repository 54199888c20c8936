import ArgumentParser
import NVM

struct Info: ParsableCommand {
  static let configuration = CommandConfiguration(abstract: "Show what a store is: file, medium, trees.")

  @OptionGroup var file: StoreArguments

  func run() throws {
    try file.withStore(writing: false) { store in
      let region = store.region
      var output = Output()
      output.line("file          \(store.path)")
      output.line("size          \(region.size.asSize) (\(region.size.grouped) bytes)")
      output.line("medium        \(store.media)")
      output.line("identity      \(region.uuid)")
      output.line(
        "last closed   \(store.recovery.wasCleanlyClosed ? "properly" : "by a crash, or in use then")")
      output.line("openings      \(region.incarnation) for writing")
      output.line("trees         \(store.treeNames.count)")
      let heap = store.statistics.heap
      output.line("in use        \(heap.liveBytes.asSize) in \(heap.liveBlocks.grouped) blocks")
      output.line("free          \(heap.freeBytes.asSize)")
      output.flush()
    }
  }
}
