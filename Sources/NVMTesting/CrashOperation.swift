import NVMRegion

/// One step of a scenario: what it does to the structure, and what that means to the model.
///
///     CrashOperation("push 7") { stack in try stack.push(7) } model: { $0.append(7) }
///
/// When the step's closure returns, its effect must survive every crash; when a crash comes before, the
/// effect must be there wholly or not at all. A result, where both closures return one, must be the same:
/// so a value that was read is held to survive as well.
public struct CrashOperation<Structure, State>: Sendable {
  /// What the step did, as far as the model is concerned: advances a state, and says whether the result that
  /// the structure gave is the one that the model gives in that state.
  typealias Outcome = @Sendable (inout State) -> Bool
  enum Action: Sendable {
    case perform(@Sendable (Structure) throws -> Outcome)
    case reopen(cleanly: Bool)
  }
  /// Shown in reports and the key of budgets; steps of one kind may share a name.
  public let name: String
  let action: Action
  let advance: @Sendable (inout State) -> Void
  /// What a crash in the middle may leave beside before and after.
  private(set) var between: (@Sendable (State) -> [State])?

  /// A step without a result.
  public init(
    _ name: String, _ perform: @escaping @Sendable (Structure) throws -> Void,
    model: @escaping @Sendable (inout State) -> Void
  ) {
    self.name = name
    advance = model
    action = .perform { structure in
      try perform(structure)
      return { state in
        model(&state)
        return true
      }
    }
  }

  /// A step whose result must be the model's.
  public init<Result: Equatable & Sendable>(
    _ name: String, _ perform: @escaping @Sendable (Structure) throws -> Result,
    model: @escaping @Sendable (inout State) -> Result
  ) {
    self.name = name
    advance = { state in _ = model(&state) }
    action = .perform { structure in
      let result = try perform(structure)
      return { state in model(&state) == result }
    }
  }

  private init(_ name: String, action: Action) {
    self.name = name
    self.action = action
    advance = { _ in }
  }

  /// The same step, for one that takes effect in several atomic parts: `between` gives, from the state before,
  /// the states that a crash between two parts may leave. Only in scenarios of one thread.
  ///
  ///     CrashOperation("clear") { try $0.clear() } model: { $0 = [] }
  ///       .inParts { before in before.indices.map { Array(before[$0...]) } }
  public func inParts(_ between: @escaping @Sendable (State) -> [State]) -> CrashOperation {
    var operation = self
    operation.between = between
    return operation
  }

  /// What a crash during the step may leave.
  func allowed(from before: State, to after: State) -> [State?] {
    [before] + (between?(before) ?? []) + [after]
  }

  /// Closes structure and region and opens them again. Only in scenarios of one thread.
  public static var reopen: CrashOperation {
    CrashOperation("close and reopen", action: .reopen(cleanly: true))
  }
  /// Opens the region again as after the end of the process: nothing was closed, no store was lost.
  public static var restart: CrashOperation { CrashOperation("restart", action: .reopen(cleanly: false)) }
}
