extension MutationGate {
  /// The argument for each mutant that need not be noticed. Empty: all are.
  static let excuses: [Excuse] = []
}
