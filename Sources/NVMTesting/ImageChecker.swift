import NVMRegion

/// Recovers images and compares what it finds with what is allowed.
///
/// An image is checked once: its observed state is remembered by its hash, and where it comes up again only
/// that state is looked up.
final class ImageChecker<Structure, State: Equatable & Sendable> {
  struct Finding {
    var kind: CrashViolation.Kind
    var message: String
    var observed: String?
  }
  private let scenario: CrashScenario<Structure, State>
  private let options: CrashOptions
  private var observed: [State?] = []
  private var known: [UInt64: Int32] = [:]
  private(set) var images = 0
  private(set) var duplicates = 0

  init(_ scenario: CrashScenario<Structure, State>, _ options: CrashOptions) {
    self.scenario = scenario
    self.options = options
  }

  /// Checks an image unless it is known.
  func check(
    _ image: UnsafeRawBufferPointer, hash: UInt64, allowed: Timeline<State>.Allowed
  ) -> Finding? {
    let key = hash ^ UInt64(image.count)
    if let number = known[key] {
      duplicates += 1
      return isAllowed(Int(number), allowed) ? nil : wrong(observed[Int(number)], allowed)
    }
    images += 1
    Watchdog.shared.restart()
    let continues = options.continuationInterval > 0 && images % options.continuationInterval == 0
    switch recover(image, allowed, continues: continues) {
    case .failure(let failed): return failed.finding
    case .success(let state):
      let number = number(of: state)
      known[key] = Int32(number)
      return isAllowed(number, allowed) ? nil : wrong(state, allowed)
    }
  }

  /// Checks an image anew, remembering nothing.
  func recheck(_ image: UnsafeRawBufferPointer, allowed: Timeline<State>.Allowed) -> Finding? {
    Watchdog.shared.restart()
    switch recover(image, allowed, continues: options.continuationInterval > 0) {
    case .failure(let failed): return failed.finding
    case .success(let state): return allowed.contains(state) ? nil : wrong(state, allowed)
    }
  }

  private func isAllowed(_ number: Int, _ allowed: Timeline<State>.Allowed) -> Bool {
    if let verdict = allowed.verdicts[number] { return verdict }
    let verdict = allowed.contains(observed[number])
    allowed.verdicts[number] = verdict
    return verdict
  }

  private func number(of state: State?) -> Int {
    // The latest states come up most.
    if let found = observed.lastIndex(where: { $0 == state }) { return found }
    observed.append(state)
    return observed.count - 1
  }

  private func wrong(_ state: State?, _ allowed: Timeline<State>.Allowed) -> Finding {
    Finding(
      kind: state == nil ? .refused : .wrongState,
      message: "expected " + allowed.states.map { Self.text($0) }.joined(separator: "\n      or "),
      observed: Self.text(state))
  }

  private static func text(_ state: State?) -> String {
    guard let state else { return "nothing that opens" }
    let full = String(describing: state)
    return full.count <= 400 ? full : full.prefix(400) + "… (\(full.count) characters)"
  }

  private struct Failed: Error {
    var finding: Finding
  }
  private typealias Result = Swift.Result<State?, Failed>

  private func failure(_ kind: CrashViolation.Kind, _ message: String) -> Result {
    .failure(Failed(finding: Finding(kind: kind, message: message)))
  }

  /// Opens, looks, opens again, goes on working, closes and opens again.
  private func recover(
    _ image: UnsafeRawBufferPointer, _ allowed: Timeline<State>.Allowed, continues: Bool
  ) -> Result {
    let opened: OpenedImage
    let structure: Structure
    do {
      opened = try open(image)
      structure = try scenario.open(opened.region)
    } catch {
      if allowed.contains(nil) { return .success(nil) }
      return failure(.refused, "opening failed: \(error)")
    }
    let state: State
    do {
      state = try scenario.observe(structure)
    } catch {
      return failure(.refused, "reading failed: \(error)")
    }
    do {
      try scenario.invariant(structure)
    } catch {
      return failure(.unsound, "\(error)")
    }
    // A wrong state is the finding; what follows from it is not.
    guard allowed.contains(state) else {
      try? scenario.close(structure)
      return .success(state)
    }
    return recoverAgain(opened, structure, state, continues: continues)
  }

  private func open(_ image: UnsafeRawBufferPointer) throws(NVMError) -> OpenedImage {
    try OpenedImage(image, model: options.model, capacity: scenario.capacity)
  }

  private func recoverAgain(
    _ first: OpenedImage, _ abandoned: Structure, _ state: State, continues: Bool
  ) -> Result {
    let opened: OpenedImage
    let structure: Structure
    do {
      opened = try open(first.content)
      try? scenario.close(abandoned)
      structure = try scenario.open(opened.region)
      let again = try scenario.observe(structure)
      guard again == state else {
        return failure(
          .unstableRecovery, "recovering again changed \(Self.text(state)) to \(Self.text(again))")
      }
      try scenario.invariant(structure)
    } catch {
      return failure(.unstableRecovery, "after recovering again: \(error)")
    }
    guard continues else {
      try? scenario.close(structure)
      return .success(state)
    }
    return goOn(opened, structure, state)
  }

  private func goOn(_ opened: OpenedImage, _ structure: Structure, _ recovered: State) -> Result {
    var step = "going on"
    var state = recovered
    do {
      for operation in scenario.continuation {
        step = "“\(operation.name)” after recovery"
        guard case .perform(let perform) = operation.action else { continue }
        let before = state
        let outcome = try perform(structure)
        guard outcome(&state) else {
          return failure(.continuation, "\(step): the result is not the model's in \(Self.text(before))")
        }
      }
      let now = try scenario.observe(structure)
      guard now == state else {
        return failure(.continuation, "\(step): expected \(Self.text(state)), observed \(Self.text(now))")
      }
      try scenario.invariant(structure)
      step = "closing after recovery"
      opened.willClose()
      try scenario.close(structure)
      try opened.region.close()
      step = "reopening after recovery"
      let reopened = try open(opened.content)
      let last = try scenario.open(reopened.region)
      defer { try? scenario.close(last) }
      let found = try scenario.observe(last)
      guard found == state else {
        return failure(.continuation, "\(step): expected \(Self.text(state)), observed \(Self.text(found))")
      }
    } catch {
      return failure(.continuation, "\(step): \(error)")
    }
    return .success(recovered)
  }
}
