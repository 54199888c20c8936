import Foundation

/// The rows as a JSON array.
enum Output {
  static func write(_ rows: [Row], to path: String) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    // One row a line: a difference between two runs can be read.
    let lines = try rows.map { "  " + String(decoding: try encoder.encode($0), as: UTF8.self) }
    let text = "[\n" + lines.joined(separator: ",\n") + "\n]\n"
    try text.write(toFile: path, atomically: true, encoding: .utf8)
  }
  static func read(_ path: String) throws -> [Row] {
    try JSONDecoder().decode([Row].self, from: Data(contentsOf: URL(fileURLWithPath: path)))
  }
}
