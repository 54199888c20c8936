import ArgumentParser
import Glibc
import NVM
import NVMRegion

struct Wear: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Show how often the lines of the file were written and allocated, as far as that was counted.",
    discussion: """
      Counts are kept beside the file, in FILE.wear, where the application opens the store with countsWear. A line is \
      64 bytes; lines never written are left out of the means.
      """)

  @OptionGroup var file: StoreArguments
  @Option(help: "Draw the file as a heat map into this SVG file.")
  var svg: String?

  func run() throws {
    try file.withStore(writing: false) { store in
      guard let wear = store.region.wear else {
        throw ToolError(.notFound, "No wear was counted for \(store.path). Open the store with countsWear.")
      }
      if let svg {
        if isSame(svg, store.path) || isSame(svg, store.path + ".wear") {
          throw ToolError(.failure, "\(svg) cannot be written: the store and its counts are there.")
        }
        let text = WearMap(wear, title: store.path).svg
        guard let out = fopen(svg, "we") else { throw ToolError(.failure, "\(svg) cannot be written.") }
        let isWhole = fputs(text, out) >= 0
        guard fclose(out) == 0, isWhole else { throw ToolError(.failure, "\(svg) cannot be written.") }
      }
      var output = Output()
      for line in WearText.lines(wear) { try output.line(line) }
      try output.flush()
    }
  }

  /// Whether two paths lead to one file.
  private func isSame(_ a: String, _ b: String) -> Bool {
    var first = stat()
    var second = stat()
    return stat(a, &first) == 0 && stat(b, &second) == 0 && first.st_dev == second.st_dev
      && first.st_ino == second.st_ino
  }
}

/// The figures in words, for `wear` and `stat`.
enum WearText {
  static func lines(_ wear: LineWear) -> [String] {
    let writes = LineWear.figures(wear.writes)
    let allocations = LineWear.figures(wear.allocations)
    return [
      "lines written     \(writes.lines.grouped), \(Int(writes.total).grouped) times",
      "  imbalance       \(ratio(writes.imbalance)) (hottest / mean)",
      "  variation       \(ratio(writes.variation)) (deviation / mean)",
      "  hottest         \(Int(writes.maximum).grouped) times, at \(writes.hottest)",
      "lines allocated   \(allocations.lines.grouped), \(Int(allocations.total).grouped) times",
      "  imbalance       \(ratio(allocations.imbalance))",
      "  variation       \(ratio(allocations.variation))",
    ]
  }

  static func ratio(_ value: Double) -> String {
    let hundredths = Int((min(value, 1e9) * 100).rounded())
    let rest = hundredths % 100
    return "\((hundredths / 100).grouped).\(rest < 10 ? "0" : "")\(rest)"
  }
}
