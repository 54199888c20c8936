import ArgumentParser
import NVM

struct Stat: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Show figures of the heap and the trees: space, fill, fragmentation.")

  @OptionGroup var file: StoreArguments
  @Flag(help: "Show the size classes of the heap too.")
  var classes = false

  func run() throws {
    try file.withStore(writing: false) { store in
      var output = Output()
      let trees = try store.trees
      let heap = store.statistics.heap
      try output.line("file              \(store.region.size.asSize)")
      try output.line("heap tables       \(heap.metadataBytes.asSize)")
      try output.line("in use            \(heap.liveBytes.asSize) in \(heap.liveBlocks.grouped) blocks")
      try output.line("  large objects   \(heap.largeObjectBytes.asSize) in \(heap.largeObjects.grouped)")
      try output.line("free              \(heap.freeBytes.asSize)")
      try output.line("  largest run     \(heap.largestFreeRun.asSize)")
      try output.line("  fragmentation   \(Int(heap.fragmentation * 100)) %")
      try output.line(
        "set aside         \(heap.damagedBytes.asSize), \(heap.damagedHeaders) damaged headers met")
      if let wear = store.region.wear {
        for line in WearText.lines(wear) { try output.line(line) }
      }
      for tree in trees {
        let figures = try store.encodedTree(named: tree.name).statistics
        try output.line("tree \(tree.name)")
        try output.line("  entries         \(tree.count.grouped)")
        try output.line("  leaves          \(figures.leaves.grouped), \(Int(figures.fill * 100)) % full")
        try output.line("  height          \(figures.height)")
        try output.line("  nodes           \(figures.nodeBytes.asSize)")
      }
      if classes {
        try output.line("block size, slabs, live, free, unused, damaged")
        for c in heap.sizeClasses where c.slabs > 0 {
          try output.line("\(c.blockSize)\t\(c.slabs)\t\(c.live)\t\(c.free)\t\(c.unformatted)\t\(c.damaged)")
        }
      }
      try output.flush()
    }
  }
}
