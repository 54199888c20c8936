/// Turning a failing image into words: what was lost, who stored it, and the order of things.
extension Exploration {
  func describe(
    _ finding: ImageChecker<Structure, State>.Finding, _ point: Point, _ choice: [Int],
    _ units: [UnitVariants]
  ) -> CrashViolation {
    var result = violation(finding.kind, finding.message)
    result.observed = finding.observed
    result.crashPoint = crashPoint(point)
    var lost: Set<Int> = []
    for (i, unit) in units.enumerated() where choice[i] != unit.high {
      let present = unit.content(choice[i])
      let complete = unit.content(unit.high)
      let words = (0..<unit.unitWords).filter {
        present[present.startIndex + $0] != complete[complete.startIndex + $0]
      }
      // One entry for each store that was lost.
      var byEvent: [Int: [Int]] = [:]
      for word in words { if let event = unit.writer(of: word) { byEvent[event, default: []].append(word) } }
      for event in byEvent.keys.sorted() {
        lost.insert(event)
        let store = point.trace.events[event]
        result.losses.append(
          CrashViolation.Loss(
            offset: unit.unit * unit.unitWords * 8, words: byEvent[event]!,
            operation: name(of: store.operation, point.trace), site: CallSites.site(store.site),
            reason: reason(event, unit, point), event: event))
      }
    }
    result.drawing = drawing(point, lost)
    return result
  }

  private func crashPoint(_ point: Point) -> String {
    let event = point.trace.events[point.position]
    var text = point.isAfter ? "just after " : "just before "
    let operation = name(of: event.operation, point.trace)
    let site = CallSites.stack(event.site).prefix(3).map(\.description).joined(separator: " ← ")
    switch event.kind {
    case .acknowledge:
      text += event.operation < 0 ? "the structure was ready" : "\(operation) was acknowledged"
    case .order, .fence: text += "the \(event.kind) of \(operation), \(site)"
    default: text += "the \(event.kind) of \(operation), \(site)"
    }
    if point.depth > 0 { text += "; inside recovery, depth \(point.depth)" }
    return text + " [event \(point.position)]"
  }

  private func reason(_ event: Int, _ unit: UnitVariants, _ point: Point) -> String {
    let store = point.trace.events[event]
    if store.kind == .nontemporal { return "past the cache, not fenced" }
    if options.model.isFile { return "its page was not synced since" }
    let start = unit.unit * unit.unitWords * 8
    let end = start + unit.unitWords * 8
    let last = point.isAfter ? point.position : point.position - 1
    for later in point.trace.events[event...max(event, last)]
    where later.kind == .flush && later.offset < end && later.offset + later.count > start {
      return later.thread == store.thread
        ? "flushed, not fenced" : "flushed by another thread, not fenced there"
    }
    return "never flushed"
  }

  /// The events from the first lost store to the crash, at most some twenty lines.
  private func drawing(_ point: Point, _ lost: Set<Int>) -> [String] {
    let end = point.isAfter ? point.position : point.position - 1
    guard end >= 0 else { return [] }
    var shown: [Int] = []
    let start = max(0, (lost.min() ?? end - 6) - 2)
    guard start <= end else { return [] }
    for position in start...end where point.trace.events[position].kind != .begin { shown.append(position) }
    var lines: [String] = []
    for (i, position) in shown.enumerated() {
      if shown.count > 24, i >= 12, i < shown.count - 12, !lost.contains(position) {
        if i == 12 { lines.append("  …") }
        continue
      }
      lines.append(line(position, point, lost))
    }
    lines.append("— crash —")
    return lines
  }

  private func line(_ position: Int, _ point: Point, _ lost: Set<Int>) -> String {
    let event = point.trace.events[position]
    let place = "0x" + String(event.offset, radix: 16)
    let number = "#\(position) "
    let padded = String(repeating: " ", count: max(0, 7 - number.count)) + number
    switch event.kind {
    case .store, .write, .nontemporal:
      let fate = lost.contains(position) ? "LOST      " : "arrived   "
      return padded + fate
        + "\(event.kind) \(place), \(event.byteCount) bytes — \(CallSites.site(event.site))"
    case .flush:
      return padded + "          flush \(place), \(event.count) bytes — \(CallSites.site(event.site))"
    case .grow: return padded + "          the file grows to \(event.count) bytes"
    default: return padded + "          \(event.kind) — \(CallSites.site(event.site))"
    }
  }
}
