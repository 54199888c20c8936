/// A deliberate mistake, made in the record of a run: no code is changed, and none has a hook for it.
///
/// A test-suite that does not notice the mistake proves nothing about the flush or fence concerned.
public struct CrashMutation: Sendable, Hashable, CustomStringConvertible {
  public enum Kind: String, Sendable, CaseIterable {
    case dropFlush = "without the flush"
    case dropFence = "without the fence"
    /// The flush comes before the last store that it was meant for.
    case flushBeforeStore = "flush before the store"
  }
  public enum Target: Sendable, Hashable {
    /// The n-th of the run, from 0.
    case ordinal(Int)
    /// All made by one line of code, in recoveries too.
    case site(CallSite)
  }
  public var kind: Kind
  public var target: Target

  public init(_ kind: Kind, _ target: Target) {
    self.kind = kind
    self.target = target
  }

  public var description: String {
    switch target {
    case .ordinal(let n): "\(kind.rawValue) number \(n)"
    case .site(let site): "\(kind.rawValue) in \(site)"
    }
  }

  private func concerns(_ event: Trace.Event) -> Bool {
    kind == .dropFence ? event.isFence : event.kind == .flush
  }

  func apply(to trace: inout Trace) {
    var ordinal = -1
    var position = 0
    while position < trace.events.count {
      let event = trace.events[position]
      if concerns(event) {
        ordinal += 1
        let hit =
          switch target {
          case .ordinal(let n): n == ordinal
          case .site(let site): CallSites.site(event.site) == site
          }
        if hit { mutate(&trace, position) }
      }
      position += 1
    }
  }

  /// In a recovery only call sites mean the same.
  func apply(toRecovery trace: inout Trace) {
    if case .site = target { apply(to: &trace) }
  }

  private func mutate(_ trace: inout Trace, _ position: Int) {
    guard kind == .flushBeforeStore else {
      trace.events[position].kind = .nothing
      return
    }
    let flush = trace.events[position]
    let start = flush.offset & ~63
    let end = (flush.offset + flush.count + 63) & ~63
    var at = position - 1
    while at >= 0 {
      let event = trace.events[at]
      if event.thread == flush.thread {
        // Past a mark or a fence it would not be a neighbour any more.
        guard event.isStore || event.kind == .flush else { return }
        if event.isStore, event.offset < end, event.offset + event.byteCount > start { break }
      } else if !event.isStore, event.kind != .flush {
        return
      }
      at -= 1
    }
    guard at >= 0 else { return }
    trace.events.remove(at: position)
    trace.events.insert(flush, at: at)
  }
}

/// Which deliberate mistakes a scenario noticed.
public struct MutationReport: Sendable, CustomStringConvertible {
  public var scenario: String
  public var killed: [CrashMutation] = []
  /// Those that no image of this scenario shows.
  public var survivors: [CrashMutation] = []
  public var images = 0
  /// What is wrong without any mutation: then none is tried.
  public var violations: [CrashViolation] = []
  public var total: Int { killed.count + survivors.count }

  public init(scenario: String) { self.scenario = scenario }

  public var description: String {
    var text = "\(scenario): \(killed.count) of \(total) mutants killed, \(images) images"
    for survivor in survivors { text += "\n  survives: \(survivor)" }
    for violation in violations { text += "\n\(violation)" }
    return text
  }
}
