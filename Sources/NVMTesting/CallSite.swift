import CNVM
import Synchronization

#if canImport(Runtime)
  import Runtime
#endif

/// The line of code that called a primitive.
public struct CallSite: Hashable, Sendable, CustomStringConvertible {
  /// The function, without module and types of its arguments.
  public var function: String
  /// The file's name, without its folder; empty where the program carries no debug information.
  public var file: String
  public var line: Int

  public var description: String { file.isEmpty ? function : "\(function) (\(file):\(line))" }

  static let unknown = CallSite(function: "unknown call site", file: "", line: 0)
}

/// Every stack on which a primitive was called, by number. Taken when recording (well below a microsecond),
/// turned into names only for a report.
enum CallSites {
  #if canImport(Runtime)
    private struct Table: @unchecked Sendable {
      var numbers: [[UInt]: Int32] = [:]
      var stacks: [Backtrace] = []
      var names: [Int32: [CallSite]] = [:]
    }
    private static let table = Mutex(Table())
    private static let images = ImageMap.capture()

    static func capture() -> Int32 {
      // More than are looked at below: without optimisation the first few are this function's own.
      let limit = 24
      let key = [UInt](unsafeUninitializedCapacity: limit) { addresses, count in
        count = nvm_callers(addresses.baseAddress!, limit)
      }
      if let known = table.withLock({ $0.numbers[key] }) { return known }
      // A hundred times as slow, so only for a stack that is new.
      guard
        let stack = try? Backtrace.capture(algorithm: .fast, limit: 12, offset: 2, top: 0, images: images)
      else { return -1 }
      return table.withLock { table in
        if let known = table.numbers[key] { return known }
        let number = Int32(table.stacks.count)
        table.stacks.append(stack)
        table.numbers[key] = number
        return number
      }
    }

    /// The callers of a primitive, the nearest first, without the primitives' own frames.
    static func stack(_ number: Int32) -> [CallSite] {
      guard number >= 0 else { return [.unknown] }
      return table.withLock { table in
        if let known = table.names[number] { return known }
        let sites = resolve(table.stacks[Int(number)])
        table.names[number] = sites
        return sites
      }
    }

    private static func resolve(_ stack: Backtrace) -> [CallSite] {
      guard let resolved = stack.symbolicated(with: images) else { return [.unknown] }
      var sites: [CallSite] = []
      for frame in resolved.frames {
        guard let symbol = frame.symbol else { continue }
        let location = symbol.sourceLocation
        let file = location.map { $0.path.split(separator: "/").last.map(String.init) ?? "" } ?? ""
        if primitives.contains(file) { continue }
        if harness.contains(file) { break }
        let line = location?.line ?? 0
        // Code of a primitive that the optimiser brought together with the caller's, which follows.
        if line == 0, sites.isEmpty { continue }
        // A generic or closure frame repeats the line of the one it was specialised from.
        if let last = sites.last, last.file == file, last.line == line, line != 0 { continue }
        sites.append(CallSite(function: shortened(symbol.name), file: file, line: line))
      }
      return sites.isEmpty ? [.unknown] : sites
    }
  #else
    static func capture() -> Int32 { -1 }
    static func stack(_ number: Int32) -> [CallSite] { [.unknown] }
  #endif

  static func site(_ number: Int32) -> CallSite { stack(number)[0] }

  private static let primitives: Set<String> = [
    "SimulatedMedium.swift", "CallSite.swift", "PersistentRegion+Primitives.swift", "nvm_atomic.h",
    "Mutex.swift", "Lock.swift",
    "<compiler-generated>",
  ]
  /// Where the explorer calls the scenario's code.
  private static let harness: Set<String> = [
    "CrashOperation.swift", "ScenarioRun.swift", "ImageChecker.swift",
  ]

  /// "closure #1 in static M.T.f(a: Swift.Int) throws -> ()" becomes "closure #1 in T.f(a:)".
  private static func shortened(_ name: String) -> String {
    var text = name.split(separator: " where ", maxSplits: 1).first.map(String.init) ?? name
    for prefix in ["generic specialization <", "function signature specialization <"]
    where text.hasPrefix(prefix) {
      if let of = text.range(ofText: "> of ") { text = String(text[of.upperBound...]) }
    }
    while let word = text.range(ofText: "specialized ") { text.removeSubrange(word) }
    if let paren = text.firstIndex(of: "(") {
      let arguments = text[paren...]
      let labels = arguments.prefix { $0 != ")" }.dropFirst().split(separator: ",").compactMap {
        part -> String? in
        guard let colon = part.firstIndex(of: ":") else { return nil }
        return part[..<colon].trimmed
      }
      text = text[..<paren] + "(" + labels.map { $0 + ":" }.joined() + ")"
    }
    return text
  }
}

extension String {
  func range(ofText needle: String) -> Range<String.Index>? {
    var at = startIndex
    while at < endIndex {
      if self[at...].hasPrefix(needle) { return at..<index(at, offsetBy: needle.count) }
      at = index(after: at)
    }
    return nil
  }
}

extension Substring {
  fileprivate var trimmed: String {
    var s = self
    while s.first == " " { s.removeFirst() }
    return String(s)
  }
}
