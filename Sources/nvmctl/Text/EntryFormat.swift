import ArgumentParser

/// How entries stand in files: one a line, key first.
enum EntryFormat: String, ExpressibleByArgument, CaseIterable {
  /// Tab-separated; tab, newline, return and backslash as \t, \n, \r, \\.
  case tsv
  /// Comma-separated, quoted where needed (RFC 4180).
  case csv
  /// {"key": …, "value": …}; read as well: ["key", "value"].
  case jsonl

  /// By the name of a file.
  init?(path: String) {
    switch path.split(separator: ".").last?.lowercased() {
    case "tsv", "txt", "tab": self = .tsv
    case "csv": self = .csv
    case "json", "jsonl", "ndjson": self = .jsonl
    default: return nil
    }
  }

  // MARK: Writing

  func line(_ key: String, _ value: String, _ tree: TextTree) -> String {
    switch self {
    case .tsv: "\(Self.escaped(key))\t\(Self.escaped(value))"
    case .csv: "\(Self.quotedCSV(key)),\(Self.quotedCSV(value))"
    case .jsonl:
      "{\"key\":\(tree.key.isJSON ? key : JSONText.quoted(key)),\"value\":\(tree.value.isJSON ? value : JSONText.quoted(value))}"
    }
  }

  static func escaped(_ text: String) -> String {
    guard text.utf8.contains(where: { $0 == 9 || $0 == 10 || $0 == 13 || $0 == 0x5C }) else { return text }
    var out = ""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\t": out += "\\t"
      case "\n": out += "\\n"
      case "\r": out += "\\r"
      case "\\": out += "\\\\"
      default: out.unicodeScalars.append(scalar)
      }
    }
    return out
  }

  static func quotedCSV(_ text: String) -> String {
    guard text.utf8.contains(where: { $0 == 0x2C || $0 == 0x22 || $0 == 10 || $0 == 13 }) else { return text }
    var out = "\""
    for scalar in text.unicodeScalars {
      if scalar == "\"" { out += "\"" }
      out.unicodeScalars.append(scalar)
    }
    return out + "\""
  }

  // MARK: Reading

  /// Key and value of one record, or nil when there are not two.
  func fields(_ record: String) -> (key: String, value: String)? {
    switch self {
    case .tsv:
      let parts = record.split(separator: "\t", maxSplits: 1, omittingEmptySubsequences: false)
      return parts.count == 2 ? (Self.unescaped(parts[0]), Self.unescaped(parts[1])) : nil
    case .csv:
      guard let fields = Self.fieldsCSV(record), fields.count == 2 else { return nil }
      return (fields[0], fields[1])
    case .jsonl:
      switch JSONText.parse(record) {
      case let pair as [Any] where pair.count == 2:
        guard let key = JSONText.plain(pair[0]), let value = JSONText.plain(pair[1]) else { return nil }
        return (key, value)
      case let object as [String: Any]:
        guard let key = object["key"].flatMap(JSONText.plain),
          let value = object["value"].flatMap(JSONText.plain)
        else { return nil }
        return (key, value)
      default: return nil
      }
    }
  }

  static func unescaped(_ text: Substring) -> String {
    guard text.utf8.contains(0x5C) else { return String(text) }
    var out = ""
    var rest = text.unicodeScalars[...]
    while let scalar = rest.popFirst() {
      guard scalar == "\\", let next = rest.first else {
        out.unicodeScalars.append(scalar)
        continue
      }
      switch next {
      case "t": out += "\t"
      case "n": out += "\n"
      case "r": out += "\r"
      case "\\": out += "\\"
      default:
        out += "\\"
        continue
      }
      rest = rest.dropFirst()
    }
    return out
  }

  /// The fields of a record without its line end; nil when a quotation does not end.
  static func fieldsCSV(_ record: String) -> [String]? {
    var fields = [""]
    var isQuoted = false
    var rest = record.unicodeScalars[...]
    while let scalar = rest.popFirst() {
      if isQuoted {
        if scalar != "\"" {
          fields[fields.count - 1].unicodeScalars.append(scalar)
        } else if rest.first == "\"" {
          rest = rest.dropFirst()
          fields[fields.count - 1] += "\""
        } else {
          isQuoted = false
        }
      } else if scalar == "," {
        fields.append("")
      } else if scalar == "\"", fields[fields.count - 1].isEmpty {
        isQuoted = true
      } else {
        fields[fields.count - 1].unicodeScalars.append(scalar)
      }
    }
    return isQuoted ? nil : fields
  }

  /// Whether a record goes on in the next line: a CSV quotation that has not ended.
  func isUnfinished(_ record: String) -> Bool { self == .csv && Self.fieldsCSV(record) == nil }
}
