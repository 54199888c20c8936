import Glibc

/// Judges a round, in the same way whatever ended it.
struct Referee {
  let board: Board
  let reporter: Reporter
  /// The store's directory, in which nothing but the store may be.
  var directory: String
  /// Where the store's file is copied before it is looked at.
  var image: String
  /// Names the round.
  var what: String
  var name: String
  /// Found already.
  var finding: String?
  /// Whether to close the store and open it again.
  var repeats: Bool
  var plan: CutPlan?

  /// What was wrong, or nil: then the store's life goes on where the checker found it.
  func judge(_ life: inout Life, seed: UInt64, _ summary: inout Summary) throws(CampaignError) -> String? {
    unlink(image)
    if access(life.path, F_OK) == 0, !copyFile(life.path, image) {
      throw CampaignError(
        text: "The store cannot be copied to \(image): \(String(cString: strerror(errno))).")
    }
    let expectation: Expectation
    do throws(Oddity) {
      expectation = try life.expectation(seed: seed, promised: board.frozen, last: board.promised)
    } catch {
      return "\(what): \(error)"
    }
    var finding = self.finding
    if finding == nil {
      let others = names(in: directory).map { "\(directory)/\($0)" }.filter {
        if $0 == life.path || $0 == image { return false }
        // Where files cannot be made without a name, a crash may leave one with a name of this form.
        guard $0.hasPrefix("\(directory)/.store.nvm.nvm-new-") else { return true }
        unlink($0)
        return false
      }
      if !others.isEmpty { finding = "left behind: \(others.joined(separator: ", "))" }
    }
    if finding == nil {
      finding = try expectation.check(life.path, repeats: repeats, plan: plan, board: board)
    }
    if let finding {
      return "\(what): \(finding)\n  "
        + reporter.keep(life, expectation, image: image, name: name, finding)
    }
    let found = (0..<life.threads).map(board.found)
    summary.count("steps", found.reduce(0, +) - life.steps.reduce(0, +))
    summary.count(
      "in flight and done", life.steps.indices.count { found[$0] == expectation.bounds[$0].upperBound })
    summary.count("ended while opening", board.frozen.isSetUp ? 0 : 1)
    summary.count("transactions finished by recovery", board.count(0) > 0 ? 1 : 0)
    life.advance(seed: seed, to: found, isSetUp: expectation.isSetUp)
    return nil
  }
}
