import ArgumentParser
import Foundation

/// Pictures and a page from results that were written before.
struct ReportCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "report", abstract: "Draws the charts and writes the page of a directory with JSON results.")
  @Argument(help: "The directory: its *.json are read, *.svg and README.md are written.")
  var directory: String
  @Option(help: "What the run was of: a commit, for instance.")
  var label: String = ""

  func run() throws {
    let files = try FileManager.default.contentsOfDirectory(atPath: directory).filter {
      $0.hasSuffix(".json")
    }
    let order = [
      "region", "heap", "tree", "store", "recovery", "wear", "protect", "groups", AmplificationRun.suite,
      "large",
    ]
    var rows: [Row] = []
    for file in files.sorted() { rows += try Output.read(directory + "/" + file) }
    rows = order.flatMap { suite in
      let own = rows.filter { $0.suite == suite }
      return Set(own.map(\.threads)).sorted().flatMap { threads in own.filter { $0.threads == threads } }
    }
    let charts = try Charts.write(rows, to: directory)
    let machine = (try? String(contentsOfFile: directory + "/machine.txt", encoding: .utf8)) ?? ""
    try page(rows, charts, machine).write(toFile: directory + "/README.md", atomically: true, encoding: .utf8)
  }

  private func page(_ rows: [Row], _ charts: [Charts.Chart], _ machine: String) -> String {
    var text = """
      # Results\(label.isEmpty ? "" : " of \(label)")

      How to read them: `ns/op` is the median over the rounds of a run in which all contestants took turns, stretch by
      stretch; *spread* is (largest − smallest) / median over the rounds. `× ours` is the contestant's time divided by
      that of swift-nvm in the same run: **below 1 the other one is faster**. Fences count every store fence, those
      that only order as well; lines are 64-byte lines written back. Only figures of one run beside each other
      mean something: the machine's mood moves all of them together. `absl::btree_map`, `std::map`, `glibc`,
      `jemalloc` and `mimalloc` keep nothing over a crash, and `ideal` allocators do nothing but one durable header
      write per call: they are floors, not rivals. The JSON files beside this page hold the same, with percentiles
      of single operations.


      """
    if !machine.isEmpty { text += "```\n\(machine.trimmingCharacters(in: .whitespacesAndNewlines))\n```\n\n" }
    text += behind(rows)
    for chart in charts { text += "## \(chart.title)\n\n![\(chart.title)](\(chart.file))\n\n" }
    text += "## All figures\n\n" + tables(rows)
    return text
  }

  /// Where a peer is ahead; floors apart.
  private func behind(_ rows: [Row]) -> String {
    func table(_ rows: [Row]) -> String {
      var text =
        "| suite | workload | media | threads | ahead of us | × ours |\n| --- | --- | --- | ---: | --- | ---: |\n"
      for row in rows {
        text +=
          "| \(row.suite) | \(row.workload) | \(row.media) | \(row.threads) | "
          + "\(row.contestant) | \(String(format: "%.2f", row.ratioToOurs ?? 0)) |\n"
      }
      return text
    }
    let ahead = rows.filter { !$0.contestant.hasPrefix(ours) && ($0.ratioToOurs ?? 1) < 0.97 }
    let floors = ahead.filter { row in Self.floors.contains { row.contestant.hasPrefix($0) } }
    let rivals = ahead.filter { row in !Self.floors.contains { row.contestant.hasPrefix($0) } }
    return "## Where we are not first\n\n" + table(rivals)
      + "\n<details><summary>and the floors below us</summary>\n\n" + table(floors) + "\n</details>\n\n"
  }
  private static let floors = [
    "absl", "std::map", "glibc", "jemalloc", "mimalloc", "ideal", "clwb", "sfence", "movnti",
  ]

  private func tables(_ rows: [Row]) -> String {
    var text = ""
    var last = ""
    for row in rows {
      let head = "\(row.suite), \(row.media), \(row.threads) thread\(row.threads == 1 ? "" : "s")"
      if head != last {
        text +=
          "\n### \(head)\n\n"
          + "| workload | n | contestant | ns/op | spread | fences | lines | bytes | p50 | p99 | p99.9 | × ours |\n"
          + "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        last = head
      }
      let name = row.contestant + (row.batch.map { $0 > 1 ? " (\($0) per commit)" : "" } ?? "")
      func n(_ v: Double?) -> String { Table.number(v, 0) }
      func d(_ v: Double?) -> String { Table.decimal(v, 0) }
      let spread = row.spread.map { String(format: "%.0f %%", $0 * 100) } ?? "–"
      let extra = row.extra.map {
        $0.sorted { $0.key < $1.key }.map { "<br>\($0.key): \(d($0.value))" }.joined()
      }
      text +=
        "| \(row.workload) | \(row.n) | \(name)\(extra ?? "") | \(n(row.nsPerOp)) | \(spread) "
        + "| \(d(row.fencesPerOp)) | \(d(row.linesPerOp)) | \(n(row.bytesPerOp)) | \(n(row.p50)) | \(n(row.p99)) "
        + "| \(n(row.p999)) | \(row.contestant == ours ? "" : d(row.ratioToOurs)) |\n"
    }
    return text
  }
}
