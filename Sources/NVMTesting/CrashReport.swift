/// What an exploration found.
public struct CrashReport: Sendable, CustomStringConvertible {
  public var scenario: String
  public var model: CrashModel
  public var seed: UInt64
  /// Different images that were recovered and checked.
  public var images = 0
  /// Images that had been checked before.
  public var duplicates = 0
  /// Legal images left out by sampling; at most 2^53.
  public var skipped = 0
  /// Crash points, and those inside a recovery.
  public var points = 0
  public var recoveryPoints = 0
  public var violations: [CrashViolation] = []
  /// Where flushes and fences are missing or wasted, by the rules alone. A hint, not proof.
  public var lints: [CrashLint] = []
  /// What each kind of operation flushed and waited for.
  public var costs: [CrashCost] = []

  public init(scenario: String, model: CrashModel, seed: UInt64) {
    (self.scenario, self.model, self.seed) = (scenario, model, seed)
  }

  /// Throws the report as an error if it has a violation (or, on request, a lint).
  public func check(lints: Bool = false) throws {
    if !violations.isEmpty || (lints && !self.lints.isEmpty) { throw CrashError(report: self) }
  }

  public var description: String {
    var text =
      "\(scenario) (\(model), seed \(seed)): \(images) images at \(points) crash points, "
      + "\(recoveryPoints) more inside recovery; \(duplicates) seen before, \(skipped) skipped; "
      + "\(violations.count) violations"
    for violation in violations { text += "\n\n\(violation)" }
    if !lints.isEmpty { text += "\n\nlints:" }
    for lint in lints { text += "\n  \(lint)" }
    return text
  }
}

/// A report with violations, thrown.
public struct CrashError: Error, CustomStringConvertible {
  public let report: CrashReport
  public var description: String { report.description }
}

/// A state that a crash can leave and from which the structure does not recover as it must.
public struct CrashViolation: Sendable, CustomStringConvertible {
  public enum Kind: String, Sendable {
    /// Opening or reading threw.
    case refused = "REFUSED"
    /// The content is not one that the acknowledged operations allow.
    case wrongState = "WRONG STATE"
    /// The scenario's invariant does not hold.
    case unsound = "NOT SOUND"
    /// Recovering once more changed something.
    case unstableRecovery = "UNSTABLE RECOVERY"
    /// The structure did not go on working as the model does.
    case continuation = "DOES NOT GO ON"
    /// A store to the region that did not go through its primitives.
    case strayStore = "STRAY STORE"
    /// An operation failed without any crash.
    case failedOperation = "FAILED OPERATION"
    /// An operation flushed or waited more than its budget.
    case overBudget = "OVER BUDGET"
  }
  /// A line of which stores were lost.
  public struct Loss: Sendable, CustomStringConvertible {
    /// The first byte of the line (or sector), from the region's start.
    public var offset: Int
    /// The words of it that were lost.
    public var words: [Int]
    /// The operation that stored them, and where.
    public var operation: String
    public var site: CallSite
    /// "never flushed", "flushed, not fenced", …
    public var reason: String
    public var event: Int

    public var description: String {
      var runs: [ClosedRange<Int>] = []
      for word in words.sorted() {
        if let last = runs.last, last.upperBound == word - 1 {
          runs[runs.count - 1] = last.lowerBound...word
        } else {
          runs.append(word...word)
        }
      }
      let range =
        (words.count == 1 ? "word " : "words ")
        + runs.map { $0.count == 1 ? "\($0.lowerBound)" : "\($0.lowerBound)–\($0.upperBound)" }
        .joined(separator: ", ")
      return "line 0x\(String(offset, radix: 16)), \(range): stored by \(operation) in \(site), \(reason)"
    }
  }

  public var kind: Kind
  public var scenario: String
  public var model: CrashModel
  public var seed: UInt64
  public var message: String
  public var observed: String?
  /// Where the crash came; empty for a violation without one.
  public var crashPoint = ""
  /// The fewest lines whose loss leads here; empty if it goes wrong with all stores present.
  public var losses: [Loss] = []
  /// The stores in program order, with what became of each.
  public var drawing: [String] = []

  public var description: String {
    var text = "\(kind.rawValue): scenario \(scenario), \(model), seed \(seed)"
    if !crashPoint.isEmpty { text += "\n  crash \(crashPoint)" }
    text += "\n  \(message)"
    if let observed { text += "\n  observed \(observed)" }
    if !crashPoint.isEmpty {
      text += losses.isEmpty ? "\n  no store needs to be lost for this" : "\n  lost:"
    }
    for loss in losses { text += "\n    \(loss)" }
    if !drawing.isEmpty { text += "\n  program order, and what reached the medium:" }
    for line in drawing { text += "\n    \(line)" }
    return text
  }
}

/// A flush or fence that is missing or wasted by the rules, found without any crash.
public struct CrashLint: Sendable, Hashable, CustomStringConvertible {
  public enum Kind: String, Sendable {
    /// A line stored by an operation was not flushed when the operation was acknowledged.
    case dirtyAtAcknowledgement = "not flushed at acknowledgement"
    /// … was flushed, and no fence of that thread followed.
    case unfencedAtAcknowledgement = "not fenced at acknowledgement"
    /// A line was stored to again between its flush and the fence: the later store is not covered.
    case storeBetweenFlushAndFence = "store between flush and fence of its line"
    /// A flush that found no store to write back.
    case redundantFlush = "redundant flush"
    /// A fence or order with nothing flushed before it.
    case redundantFence = "redundant fence"
  }
  public var kind: Kind
  public var operation: String
  public var site: CallSite
  /// How often in the run.
  public var count: Int

  public var description: String { "\(kind.rawValue): \(operation), \(site), \(count)×" }
}

/// What the operations of one name cost on the simulated medium.
public struct CrashCost: Sendable, CustomStringConvertible {
  public var operation: String
  public var count = 0
  public var flushedLines = 0
  public var fences = 0
  public var mostFlushedLines = 0
  public var mostFences = 0

  public var description: String {
    "\(operation): \(count) times, \(flushedLines) lines (most \(mostFlushedLines)), \(fences) fences "
      + "(most \(mostFences))"
  }
}
