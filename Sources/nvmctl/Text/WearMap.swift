import NVMRegion

/// The file as a grid, in reading order: each cell the hottest of its lines, on a logarithmic scale.
struct WearMap {
  private let cells: [UInt32]
  private let columns = 128
  private let linesPerCell: Int
  private let writes: LineWear.Figures
  private let allocations: LineWear.Figures
  private let title: String

  init(_ wear: LineWear, title: String) {
    let most = 128 * 96
    let perCell = max(1, (wear.writes.count + most - 1) / most)
    linesPerCell = perCell
    cells = stride(from: 0, to: wear.writes.count, by: perCell).map {
      wear.writes[$0..<min($0 + perCell, wear.writes.count)].max() ?? 0
    }
    writes = LineWear.figures(wear.writes)
    allocations = LineWear.figures(wear.allocations)
    self.title = title
  }

  /// Whole steps, so that cells of one colour can be drawn as one.
  private func step(_ count: UInt32) -> Int {
    guard count > 0 else { return 0 }
    let top = max(1, Self.log2(writes.maximum))
    return 1 + Int((Double(Self.palette.count - 2) * Self.log2(count) / top).rounded())
  }
  /// To an eighth.
  private static func log2(_ x: UInt32) -> Double {
    let whole = 31 - x.leadingZeroBitCount
    return Double(whole) + Double(x) / Double(UInt64(1) << UInt64(whole)) - 1
  }

  /// From untouched over cold to hot; told apart in grey too.
  private static let palette = [
    "#f4f4f2", "#e3ecf5", "#c6dbef", "#9ecae1", "#6baed6", "#7fbf9a", "#d9d26a", "#fdae4b", "#f16913",
    "#cb181d",
    "#7f0010",
  ]

  var svg: String {
    let size = 6
    let rows = (cells.count + columns - 1) / columns
    let (width, height) = (columns * size + 40, rows * size + 128)
    var text = """
      <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 \(width) \(height)" font-family="sans-serif" font-size="12">
      <rect width="\(width)" height="\(height)" fill="#fff"/>
      <text x="20" y="24" font-size="15">Wear of \(Self.escaped(title))</text>
      <text x="20" y="44">\(writes.lines.grouped) lines written \(Int(writes.total).grouped) times: hottest \
      \(Int(writes.maximum).grouped) at \(writes.hottest), \(WearText.ratio(writes.imbalance)) × the mean; variation \
      \(WearText.ratio(writes.variation))</text>
      <text x="20" y="60">Allocated lines: hottest \(WearText.ratio(allocations.imbalance)) × the mean. A cell is \
      \((linesPerCell * 64).asSize), coloured by its hottest line; offset 0 at the top left.</text>

      """
    for row in 0..<rows {
      var column = 0
      while column < columns, row * columns + column < cells.count {
        let colour = step(cells[row * columns + column])
        let start = column
        repeat {
          column += 1
        } while column < columns && row * columns + column < cells.count
          && step(cells[row * columns + column]) == colour
        text +=
          "<rect x=\"\(20 + start * size)\" y=\"\(72 + row * size)\" width=\"\((column - start) * size)\" "
          + "height=\"\(size)\" fill=\"\(Self.palette[colour])\"/>\n"
      }
    }
    let y = 72 + rows * size + 16
    for (i, colour) in Self.palette.enumerated() {
      text += "<rect x=\"\(20 + i * 24)\" y=\"\(y)\" width=\"24\" height=\"12\" fill=\"\(colour)\"/>\n"
    }
    text += "<text x=\"20\" y=\"\(y + 28)\">never written</text>\n"
    text +=
      "<text x=\"\(20 + Self.palette.count * 24)\" y=\"\(y + 28)\" text-anchor=\"end\">"
      + "\(Int(writes.maximum).grouped) times</text>\n</svg>\n"
    return text
  }

  private static func escaped(_ text: String) -> String {
    var result = ""
    for c in text {
      switch c {
      case "&": result += "&amp;"
      case "<": result += "&lt;"
      case ">": result += "&gt;"
      default: result.append(c)
      }
    }
    return result
  }
}
