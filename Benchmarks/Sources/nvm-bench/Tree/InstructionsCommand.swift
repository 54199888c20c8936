import ArgumentParser
import CBench
import Foundation
import PeerTrees

/// For callgrind: inserts and look-ups in functions whose names it can be told to collect in.
struct InstructionsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "instructions",
    abstract: "Inserts and looks up, to be run under callgrind by count-instructions.sh.")
  @Option(help: "swift-nvm, absl, std, libpmemobj or LMDB.")
  var contestant: String = ours
  @OptionGroup var options: Options

  func run() throws {
    let n = options.size(100_000)
    try options.withDirectory { directory in
      let peer: (any TreeContestant)? =
        switch contestant {
        case "absl": PeerTree(bench_tree_absl(), directory: directory, bytes: 0)
        case "std": PeerTree(bench_tree_std(), directory: directory, bytes: 0)
        case "libpmemobj": PeerTree(bench_tree_pmemobj(), directory: directory, bytes: (64 << 20) + n * 80)
        case "LMDB": PeerTree(bench_tree_lmdb(), directory: directory, bytes: 4 << 30, perCommit: 1000)
        case ours: try OurTree(directory: directory, bytes: 64 << 20, options: options.regionOptions)
        default: nil
        }
      guard let tree = peer else { throw ValidationError("There is no contestant \(contestant).") }
      defer { tree.close() }
      let space = KeySpace(seed: options.seed)
      var outcome = bench_outcome()
      var random = Random(seed: options.seed)
      let keys = space.keys(0..<n)
      let shuffled = keys.shuffled(using: &random)
      keys.withUnsafeBufferPointer {
        var batch = bench_batch()
        (batch.keys, batch.count, batch.op) = ($0.baseAddress!, n, UInt8(BENCH_INSERT))
        countedInserts(tree, batch, &outcome)
      }
      shuffled.withUnsafeBufferPointer {
        var batch = bench_batch()
        (batch.keys, batch.count, batch.op) = ($0.baseAddress!, n, UInt8(BENCH_LOOKUP))
        countedLookUps(tree, batch, &outcome)
      }
      if outcome.wrong > 0 { throw ExitCode.failure }
    }
  }
}

@inline(never)
private func countedInserts(_ tree: any TreeContestant, _ batch: bench_batch, _ outcome: inout bench_outcome)
{
  tree.run(batch, &outcome)
}

/// Not the same instructions as the other one, or the compiler makes one function of both.
@inline(never)
private func countedLookUps(_ tree: any TreeContestant, _ batch: bench_batch, _ outcome: inout bench_outcome)
{
  tree.run(batch, &outcome)
  outcome.entries &+= 1
}
