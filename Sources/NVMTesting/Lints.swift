/// One pass over a trace that looks at lines alone, without any image: what was not flushed or fenced when an
/// operation was acknowledged, what was flushed or fenced for nothing, and what each operation cost.
struct LintPass {
  private enum LineState {
    case dirty(operation: Int32, site: Int32)
    case flushed(thread: Int32, operation: Int32, site: Int32)
  }
  private struct Key: Hashable {
    var kind: CrashLint.Kind
    var operation: String
    var site: CallSite
  }
  private var lines: [Int: LineState] = [:]
  private var nontemporal: [Int32: Set<Int>] = [:]
  private var found: [Key: Int] = [:]
  private var order: [Key] = []
  private var perOperation: [(lines: Int, fences: Int)]
  private let trace: Trace

  init(_ trace: Trace) {
    self.trace = trace
    perOperation = trace.operations.map { _ in (0, 0) }
    for (position, event) in trace.events.enumerated() {
      visit(event, counted: position > trace.ready)
    }
  }

  var lints: [CrashLint] {
    order.map { CrashLint(kind: $0.kind, operation: $0.operation, site: $0.site, count: found[$0]!) }
  }

  var costs: [CrashCost] {
    var names: [String] = []
    var costs: [String: CrashCost] = [:]
    for (operation, cost) in zip(trace.operations, perOperation) {
      if costs[operation.name] == nil { names.append(operation.name) }
      var sum = costs[operation.name] ?? CrashCost(operation: operation.name)
      sum.count += 1
      sum.flushedLines += cost.lines
      sum.fences += cost.fences
      sum.mostFlushedLines = max(sum.mostFlushedLines, cost.lines)
      sum.mostFences = max(sum.mostFences, cost.fences)
      costs[operation.name] = sum
    }
    return names.map { costs[$0]! }
  }

  private mutating func visit(_ event: Trace.Event, counted: Bool) {
    switch event.kind {
    case .store, .write:
      for line in lineRange(event) {
        if case .flushed(let thread, _, _) = lines[line], thread == event.thread, counted {
          note(.storeBetweenFlushAndFence, event)
        }
        lines[line] = .dirty(operation: event.operation, site: event.site)
      }
    case .nontemporal:
      nontemporal[event.thread, default: []].formUnion(lineRange(event))
      if event.operation >= 0 { perOperation[Int(event.operation)].lines += lineRange(event).count }
    case .flush:
      visitFlush(event, counted)
    case .order, .fence:
      visitFence(event, counted)
    case .acknowledge where event.operation >= 0:
      visitAcknowledgement(event)
    default: break
    }
  }

  private mutating func visitFlush(_ event: Trace.Event, _ counted: Bool) {
    guard event.count > 0 else { return }
    var useful = false
    for line in lineRange(event) {
      if case .dirty(let operation, let site) = lines[line] {
        useful = true
        lines[line] = .flushed(thread: event.thread, operation: operation, site: site)
      }
    }
    if !useful, counted { note(.redundantFlush, event) }
    if event.operation >= 0 { perOperation[Int(event.operation)].lines += lineRange(event).count }
  }

  private mutating func visitFence(_ event: Trace.Event, _ counted: Bool) {
    var settled: [Int] = []
    for (line, state) in lines {
      if case .flushed(let thread, _, _) = state, thread == event.thread { settled.append(line) }
    }
    for line in settled { lines[line] = nil }
    let past = nontemporal.removeValue(forKey: event.thread) ?? []
    if settled.isEmpty, past.isEmpty, counted { note(.redundantFence, event) }
    if event.operation >= 0 { perOperation[Int(event.operation)].fences += 1 }
  }

  private mutating func visitAcknowledgement(_ event: Trace.Event) {
    for line in lines.keys.sorted() {
      switch lines[line]! {
      case .dirty(let operation, let site) where operation == event.operation:
        note(.dirtyAtAcknowledgement, event, site)
      case .flushed(_, let operation, let site) where operation == event.operation:
        note(.unfencedAtAcknowledgement, event, site)
      default: break
      }
    }
  }

  private mutating func note(_ kind: CrashLint.Kind, _ event: Trace.Event, _ site: Int32? = nil) {
    let name = event.operation >= 0 ? trace.operations[Int(event.operation)].name : "no operation"
    let key = Key(kind: kind, operation: name, site: CallSites.site(site ?? event.site))
    if found[key] == nil { order.append(key) }
    found[key, default: 0] += 1
  }

  private func lineRange(_ event: Trace.Event) -> ClosedRange<Int> {
    event.offset / 64...max(event.offset, event.offset + event.byteCount - 1) / 64
  }
}
