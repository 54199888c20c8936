import Foundation

/// A package as dpkg's database describes it.
struct Package {
  var name: String
  var version: String
  var section: String
  var installedKiB: Int
  var summary: String
  /// Package → the version asked for, or an empty string.
  var dependencies: [String: String]
}

/// Reads a file in the form of /var/lib/dpkg/status: paragraphs of "Field: value" lines, apart by empty lines.
func readPackages(_ path: String) throws -> [Package] {
  let text = String(decoding: try Data(contentsOf: URL(fileURLWithPath: path)), as: UTF8.self)
  var packages: [Package] = []
  var fields: [Substring: Substring] = [:]
  func endParagraph() {
    defer { fields = [:] }
    guard let name = fields["Package"] else { return }
    var dependencies: [String: String] = [:]
    for field in [fields["Pre-Depends"], fields["Depends"]].compactMap({ $0 }) {
      // "libc6 (>= 2.34), debconf (>= 0.5) | debconf-2.0": each alternative is one.
      for alternative in field.split(whereSeparator: { $0 == "," || $0 == "|" }) {
        let parts = alternative.split(separator: "(", maxSplits: 1)
        guard let first = parts.first?.split(whereSeparator: { $0 == " " || $0 == ":" }).first else {
          continue
        }
        dependencies[String(first)] = parts.count > 1 ? parts[1].filter { $0 != ")" } : ""
      }
    }
    packages.append(
      Package(
        name: String(name), version: String(fields["Version"] ?? ""),
        section: String(fields["Section"] ?? ""),
        installedKiB: Int(fields["Installed-Size"] ?? "") ?? 0, summary: String(fields["Description"] ?? ""),
        dependencies: dependencies))
  }
  for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
    if line.isEmpty {
      endParagraph()
    } else if line.first != " ", let colon = line.firstIndex(of: ":") {
      fields[line[..<colon]] = line[line.index(after: colon)...].drop { $0 == " " }
    }
  }
  endParagraph()
  return packages
}
