import Foundation
import NVMFoundation

/// The demonstration on one medium.
struct Demo {
  var status: String
  var entries: [IndexEntry]
  var kills: Int
  var path: String
  var media: RegionOptions.MediaChoice
  var mediaName: String

  func run() throws {
    try? FileManager.default.removeItem(atPath: path)
    defer { try? FileManager.default.removeItem(atPath: path) }
    try killAgainAndAgain()
    try answer()
    try measure()
  }

  /// Kills a loading child again and again; after each kill the store holds what was acknowledged and nothing else.
  private func killAgainAndAgain() throws {
    var done = 0
    var killed = 0
    var unacknowledged = 0
    var reopenings: [Duration] = []
    // A child that had ended before it could be killed does not count.
    while killed < kills {
      if done == entries.count {
        // All was loaded: from the beginning.
        try FileManager.default.removeItem(atPath: path)
        done = 0
      }
      let load = try loadAndKill(
        after: Int.random(in: 0...(entries.count - done) / 4), status: status, first: done, path: path,
        mediaName: mediaName)
      done += load.acknowledged
      let start = ContinuousClock.now
      let index = try PackageIndex(path: path, media: media)
      if load.wasKilled {
        killed += 1
        reopenings.append(ContinuousClock.now - start)
      }
      // The entry under way when the child died may be there or not; nothing else may.
      if index.count == done + 1, done < entries.count, try index.contains(entries[done]) {
        done += 1
        unacknowledged += 1
      }
      try check(index, done)
      try index.store.close()
    }
    let index = try PackageIndex(path: path, media: media)
    for entry in entries[done...] { try index.add(entry) }
    try check(index, entries.count)
    try index.store.close()
    print(
      "  killed \(killed) times while loading; after each kill every acknowledged entry was there, and"
    )
    print(
      "  nothing else (\(unacknowledged) times the entry under way had arrived); the store verified each time"
    )
    print("  reopened after a kill in \(milliseconds(reopenings.sorted()[reopenings.count / 2])) (median)")
  }

  private func check(_ index: PackageIndex, _ done: Int) throws {
    for entry in entries[..<done] {
      guard try index.contains(entry) else {
        throw Failure(description: "An acknowledged entry is missing: \(entry)")
      }
    }
    guard index.count == done else {
      throw Failure(description: "The store holds \(index.count) entries, but \(done) were loaded.")
    }
    let report = try index.store.verify()
    guard report.isClean else { throw Failure(description: report.problems.joined(separator: "\n")) }
  }

  private func answer() throws {
    let start = ContinuousClock.now
    let index = try PackageIndex(path: path, media: media)
    let reopened = ContinuousClock.now - start
    print(
      "  reopened after a proper close in \(milliseconds(reopened)): \(index.packages.count) packages, "
        + "\(index.dependents.count) dependencies")
    // The most wanted package.
    var counts: [String: Int] = [:]
    for (key, _) in try index.dependents[...] { counts[key.first, default: 0] += 1 }
    if let (name, count) = counts.max(by: { ($0.value, $1.key) < ($1.value, $0.key) }) {
      let first = try index.packages(dependingOn: name).prefix(4).joined(separator: ", ")
      print("  \(count) packages depend on \(name): \(first), …")
    }
    var names: [String] = []
    for (name, _) in try index.packages["lib"..<"lic"] {
      names.append(name)
      if names.count == 4 { break }
    }
    print("  the first from \"lib\" to \"lic\": \(names.joined(separator: ", "))")
    let last = try index.packages[...].reversed().prefix(3).map(\.key)
    print("  the last three: \(last.joined(separator: ", "))")
    try index.store.close()
  }

  /// Loads everything anew without kills, and counts.
  private func measure() throws {
    try FileManager.default.removeItem(atPath: path)
    let index = try PackageIndex(path: path, media: media)
    let before = index.store.region.counters
    let start = ContinuousClock.now
    for entry in entries { try index.add(entry) }
    let duration = ContinuousClock.now - start
    let used = index.store.region.counters - before
    let n = Double(entries.count)
    let rate = Int(n / (Double(duration.components.seconds) + Double(duration.components.attoseconds) / 1e18))
    print(
      "  loaded \(entries.count) entries anew, each durable before the next: \(rate) entries/s, "
        + "\(decimal(Double(used.fences) / n)) fences and \(decimal(Double(used.orders) / n)) orders, "
        + "\(decimal(Double(used.lines) / n)) lines an entry")
    try index.store.close()
  }
}

func milliseconds(_ duration: Duration) -> String {
  let ms = Double(duration.components.seconds) * 1e3 + Double(duration.components.attoseconds) / 1e15
  return "\(decimal(ms)) ms"
}

/// With two digits after the point.
func decimal(_ value: Double) -> String {
  let hundredths = Int((value * 100).rounded())
  let rest = String(hundredths % 100)
  return "\(hundredths / 100).\(rest.count < 2 ? "0" : "")\(rest)"
}
