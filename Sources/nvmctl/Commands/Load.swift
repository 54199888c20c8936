import ArgumentParser
import NVM

struct Load: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Store the entries of a file.",
    discussion: """
      One entry a line, key first: tab-separated, comma-separated, or JSON ({"key": …, "value": …} or \
      ["key", "value"]). The format follows from the file's name unless --format says it; standard input is \
      tab-separated. A key that is there already takes the new value.

      Each entry is durable when the next one is read. At a line that cannot be understood loading stops; what came \
      before stays, and loading the file again does no harm.
      """)

  @OptionGroup var file: StoreArguments
  @OptionGroup var target: TreeArguments
  @Argument(help: "The file to read; - for standard input.")
  var input = "-"
  @Option(help: "tsv, csv or jsonl.")
  var format: EntryFormat?
  @Flag(help: "Skip the first line: it has the names of the columns.")
  var header = false

  func run() throws {
    let format = format ?? EntryFormat(path: input) ?? .tsv
    let reader = try LineReader(input)
    try file.withStore(writing: true) { store in
      let tree = try TextTree(store, target.tree)
      let bar = ProgressBar("loading")
      defer { bar.finish() }
      let start = ContinuousClock.now
      var count = 0
      if header { _ = try reader.next() }
      while var record = try reader.next() {
        if record.isEmpty { continue }
        let line = reader.lineNumber
        while format.isUnfinished(record) {
          // Within a quotation the end of a line is text.
          let end = reader.lineEnd
          guard let more = try reader.next() else { break }
          record += end + more
        }
        do {
          guard let (key, value) = format.fields(record) else {
            throw ToolError(.failure, "This is no entry in the form \(format.rawValue).")
          }
          try tree.tree.setValue(try tree.value.encode(value), forKey: try tree.key.encode(key))
        } catch let error as ToolError {
          throw ToolError(
            .failure, "\(reader.path), line \(line): \(error) \(count.grouped) entries were loaded.")
        }
        count += 1
        if count & 63 == 0 { bar.update(reader.share, count: count) }
      }
      bar.finish()
      let seconds = (ContinuousClock.now - start).seconds
      Terminal.writeError(
        "\(count.grouped) entries loaded in \(Int(seconds * 1000)) ms; the tree holds \(tree.tree.count.grouped).\n"
      )
    }
  }
}
