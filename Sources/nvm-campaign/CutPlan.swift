import CNVMCut

/// What the shim does in a child.
struct CutPlan {
  /// In the file system to be cut.
  var directory: String
  /// Cut instead of this sync; 0: never.
  var at = 0
  /// The control: every so many msyncs return success and do nothing.
  var swallowEvery = 0
  /// Write some pages back beside every so many syncs.
  var earlyEvery = 0
  var seed: UInt64 = 0

  func arm(_ board: Board) throws(CampaignError) {
    var plan = nvm_cut_plan()
    plan.cut_at = UInt64(at)
    plan.swallow_every = UInt64(swallowEvery)
    plan.early_every = UInt64(earlyEvery)
    plan.seed = seed
    plan.promised = UnsafePointer(board.promisedWords)
    plan.frozen = board.frozenWords
    plan.promised_count = Board.halfCount
    let result = directory.withCString { path in
      plan.directory = path
      return nvm_cut_arm(&plan)
    }
    guard result == 0 else { throw CampaignError(text: "The shim cannot be armed: error \(-result).") }
  }
}
