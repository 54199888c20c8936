import NVMRegion

/// Walks the traces of one scenario and checks what a crash may leave at each crash point: just before each
/// fence, at each acknowledgement, at the end, and (automatic flush) at each store.
final class Exploration<Structure, State: Equatable & Sendable> {
  typealias Run = ScenarioRun<Structure, State>
  typealias Allowed = Timeline<State>.Allowed

  let scenario: CrashScenario<Structure, State>
  let options: CrashOptions
  let mutation: CrashMutation?
  /// Whether the mistake shows in recoveries, too.
  private let mutatesRecoveries: Bool
  let checker: ImageChecker<Structure, State>
  var report: CrashReport
  private var generator: SeededGenerator
  private var pointsLeft = 0
  /// Images whose recovery was crashed already.
  private var recovered: Set<UInt64> = []
  /// One image buffer for each depth.
  private let buffers: [UnsafeMutableRawPointer]
  /// The call sites of flushes, and those of fences, met in recoveries. By number: names are slow to find.
  var recoveryFlushes: Set<Int32> = []
  var recoveryFences: Set<Int32> = []

  init(
    _ scenario: CrashScenario<Structure, State>, _ options: CrashOptions, mutation: CrashMutation? = nil,
    mutatesRecoveries: Bool = false
  ) {
    var options = options
    if scenario.staysInRecovery, mutation != nil {
      options.recoveriesPerPoint = max(options.recoveriesPerPoint, 64)
      options.imagesPerRecoveryPoint = max(options.imagesPerRecoveryPoint, 400)
      options.maximumImages = options.maximumImages.map { max($0, 40_000) }
    }
    self.scenario = scenario
    self.options = options
    self.mutation = mutation
    self.mutatesRecoveries = mutatesRecoveries
    checker = ImageChecker(scenario, options)
    report = CrashReport(scenario: scenario.name, model: options.model, seed: options.seed)
    generator = SeededGenerator(seed: options.seed)
    let capacity = scenario.capacity + options.model.journalSize
    buffers = (0...max(0, options.recoveryDepth)).map { _ in
      .allocate(byteCount: capacity + 4096, alignment: 4096)
    }
  }

  deinit { for buffer in buffers { buffer.deallocate() } }

  var isFinished: Bool { report.violations.count >= options.maximumViolations }

  /// Explores a recorded run.
  func explore(_ run: Run) {
    noteFailures(run)
    guard !isFinished, run.failure == nil else { return }
    var trace = run.trace
    mutation?.apply(to: &trace)
    let start = scenario.exploresCreation ? 0 : run.trace.ready
    // Where the mistake makes no difference, the original has been explored already.
    let telling = mutation == nil || mutatesRecoveries ? nil : differences(run.trace, trace, from: nil)
    pointsLeft =
      1
      + trace.events.indices[start...].count {
        (trace.events[$0].isFence || trace.events[$0].kind == .acknowledge) && telling?[$0] != false
      }
    walk(
      trace,
      MediaState(
        model: options.model, image: nil, size: scenario.firstSize + options.model.journalSize,
        capacity: capacity),
      run.timeline, from: start, depth: 0, telling: telling)
    report.images = checker.images
    report.duplicates = checker.duplicates
  }

  /// The most bytes that a file has.
  private var capacity: Int { scenario.capacity + options.model.journalSize }

  private func noteFailures(_ run: Run) {
    for stray in run.strays.prefix(options.maximumViolations) {
      let event = run.trace.events[stray.event]
      report.violations.append(
        violation(
          .strayStore,
          "the bytes at 0x\(String(stray.offset, radix: 16)) changed without a primitive, noticed in "
            + "\(name(of: event.operation, run.trace)) at \(CallSites.site(event.site))"))
    }
    if let failure = run.failure, !isFinished {
      report.violations.append(violation(.failedOperation, "“\(failure.name)”: \(failure.message)"))
    }
  }

  func violation(_ kind: CrashViolation.Kind, _ message: String) -> CrashViolation {
    CrashViolation(
      kind: kind, scenario: scenario.name, model: options.model, seed: options.seed, message: message)
  }

  func name(of operation: Int32, _ trace: Trace) -> String {
    operation < 0 ? "no operation" : "operation \(operation) “\(trace.operations[Int(operation)].name)”"
  }

  // MARK: Walking

  /// At which events a crash may leave something else than it does without the mistake: just before the event,
  /// or just after it.
  private func differences(_ original: Trace, _ mutated: Trace, from image: UnsafeRawBufferPointer?) -> [Bool]
  {
    let size = image?.count ?? scenario.firstSize + options.model.journalSize
    let media = (0..<2).map { _ in
      MediaState(model: options.model, image: image, size: size, capacity: capacity)
    }
    return original.events.indices.map { i in
      let before = media[0].leavesTheSame(as: media[1])
      media[0].apply(original.events[i], at: i, words: original.words)
      media[1].apply(mutated.events[i], at: i, words: mutated.words)
      return !before || !media[0].leavesTheSame(as: media[1])
    }
  }

  private func walk(
    _ trace: Trace, _ media: MediaState, _ timeline: Timeline<State>, from start: Int, depth: Int,
    telling: [Bool]?
  ) {
    for (position, event) in trace.events.enumerated() {
      if isFinished { return }
      let explored = position >= start && telling?[position] != false
      if event.isFence, explored {
        point(
          Point(trace: trace, position: position, isAfter: false, depth: depth), media,
          timeline.allowed(after: position - 1))
      }
      if options.model == .automaticFlush, event.isStore, explored {
        walkStore(trace, position, media, timeline, depth)
      }
      media.apply(event, at: position, words: trace.words)
      if event.kind == .acknowledge, explored {
        point(
          Point(trace: trace, position: position, isAfter: true, depth: depth), media,
          timeline.allowed(after: position))
      }
    }
    guard !isFinished, let last = trace.events.indices.last, telling?[last] != false else { return }
    point(
      Point(trace: trace, position: last, isAfter: true, depth: depth), media, timeline.allowed(after: last))
  }

  /// Automatic flush: an image after each word, or at up to eight places of a long write.
  private func walkStore(
    _ trace: Trace, _ position: Int, _ media: MediaState, _ timeline: Timeline<State>, _ depth: Int
  ) {
    let event = trace.events[position]
    let steps = min(event.count, 8)
    var done = 0
    for step in 1...max(steps, 1) where steps > 0 {
      let end = event.count * step / steps
      for i in done..<end { media.setBase(event.offset / 8 + i, trace.words[event.data + i]) }
      done = end
      let at = Point(trace: trace, position: position, isAfter: true, depth: depth)
      let image = UnsafeRawBufferPointer(start: media.base, count: media.size)
      let allowed = timeline.allowed(after: position)
      if let finding = checker.check(image, hash: media.hash, allowed: allowed) {
        report.violations.append(describe(finding, at, [], []))
      }
      if isFinished { return }
    }
  }

  /// Where a crash comes.
  struct Point {
    var trace: Trace
    var position: Int
    /// Just after the event, or just before it.
    var isAfter: Bool
    var depth: Int
  }

  private func point(_ point: Point, _ media: MediaState, _ allowed: Allowed) {
    if point.depth == 0 { report.points += 1 } else { report.recoveryPoints += 1 }
    var enumerator = ImageEnumerator(
      state: media, options: options, generator: SeededGenerator(seed: generator.next()),
      headerUnits: scenario.exploresSuperblock ? 0 : 8192 / options.model.unitSize)
    let buffer = buffers[point.depth]
    let image = UnsafeRawBufferPointer(start: buffer, count: media.size)
    buffer.copyMemory(from: media.base, byteCount: media.size)
    var picked: [(choice: [Int], hash: UInt64)] = []
    let nests =
      point.depth < options.recoveryDepth && options.maximumImages.map { checker.images < $0 } ?? true
    let room = point.depth == 0 ? options.recoveriesPerPoint : min(2, options.recoveriesPerPoint)
    let limit = imageLimit(point)
    var ordinal = 0
    var failed: ([Int], [UnitVariants], ImageChecker<Structure, State>.Finding)?
    let given = enumerator.forEach(limit: limit) { choice, units in
      let hash = build(choice, units, media, buffer)
      if let finding = checker.check(image, hash: hash, allowed: allowed) {
        failed = (choice, units, finding)
        return false
      }
      if nests, !recovered.contains(hash) {
        // The first two (none and all of the pending stores) and a random rest.
        if picked.count < room {
          picked.append((choice, hash))
        } else if room > 2 {
          let slot = 2 + generator.below(ordinal)
          if slot < room { picked[slot] = (choice, hash) }
        }
      }
      ordinal += 1
      return true
    }
    if let (choice, units, finding) = failed {
      report.violations.append(shrink(choice, units, finding, point, media, allowed))
      return
    }
    report.skipped = min(
      1 << 53, saturatingAdd(report.skipped, enumerator.total - min(given, enumerator.total)))
    for (choice, hash) in picked where nests && !isFinished {
      guard recovered.insert(hash).inserted else { continue }
      _ = build(choice, enumerator.units, media, buffer)
      crashRecovery(of: image, allowed, depth: point.depth + 1)
    }
  }

  /// How many images this point may have: what is left of the budget is shared with the points to come.
  private func imageLimit(_ point: Point) -> Int {
    var limit = point.depth == 0 ? options.imagesPerPoint : options.imagesPerRecoveryPoint
    guard let budget = options.maximumImages else { return limit }
    let left = max(0, budget - checker.images)
    limit = min(limit, max(2, left / max(1, pointsLeft) / (point.depth == 0 ? 2 : 8)))
    if point.depth == 0 { pointsLeft -= 1 }
    return limit
  }

  /// Writes an image into `buffer`, which holds the base and differs in the dirty units only.
  private func build(
    _ choice: [Int], _ units: [UnitVariants], _ media: MediaState, _ buffer: UnsafeMutableRawPointer
  ) -> UInt64 {
    var hash = media.hash
    for (i, unit) in units.enumerated() {
      hash = hash &+ unit.deltas[choice[i]]
      unit.contents.withUnsafeBytes { contents in
        let size = unit.unitWords * 8
        (buffer + unit.unit * size).copyMemory(
          from: contents.baseAddress! + choice[i] * size, byteCount: size)
      }
    }
    return hash
  }

  private func crashRecovery(of image: UnsafeRawBufferPointer, _ allowed: Allowed, depth: Int) {
    Watchdog.shared.restart()
    let run = Run.recover(
      scenario, model: options.model, image: image, outer: allowed.states,
      continues: options.continuationInterval > 0)
    // Where nothing needs to open, there is no recovery to crash.
    if run.failure != nil, allowed.contains(nil) { return }
    noteFailures(run)
    guard !isFinished, run.failure == nil else { return }
    if mutation == nil {
      for event in run.trace.events {
        if event.kind == .flush { recoveryFlushes.insert(event.site) }
        if event.isFence { recoveryFences.insert(event.site) }
      }
    }
    var trace = run.trace
    mutation?.apply(toRecovery: &trace)
    let telling = mutatesRecoveries ? differences(run.trace, trace, from: image) : nil
    walk(
      trace, MediaState(model: options.model, image: image, size: image.count, capacity: capacity),
      run.timeline, from: 0, depth: depth, telling: telling)
  }

  // MARK: Shrinking

  /// Gives back as many of the lost stores as the failure allows.
  private func shrink(
    _ choice: [Int], _ units: [UnitVariants], _ finding: ImageChecker<Structure, State>.Finding,
    _ point: Point,
    _ media: MediaState, _ allowed: Allowed
  ) -> CrashViolation {
    var choice = choice
    var finding = finding
    let buffer = buffers[point.depth]
    let image = UnsafeRawBufferPointer(start: buffer, count: media.size)
    func attempt(_ i: Int, _ variant: Int) -> Bool {
      guard choice[i] != variant else { return false }
      var candidate = choice
      candidate[i] = variant
      _ = build(candidate, units, media, buffer)
      guard let found = checker.recheck(image, allowed: allowed), found.kind == finding.kind else {
        return false
      }
      choice = candidate
      finding = found
      return true
    }
    if options.shrinks {
      var changed = true
      while changed {
        changed = false
        for i in units.indices where attempt(i, units[i].high) { changed = true }
      }
      // A wholly lost line is easier to understand than a torn one.
      for i in units.indices where choice[i] != units[i].high { _ = attempt(i, UnitVariants.low) }
    }
    return describe(finding, point, choice, units)
  }
}
