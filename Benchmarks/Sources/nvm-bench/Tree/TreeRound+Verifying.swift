import Foundation
import NVMBTree
import NVMRegion
import NVMalloc

/// What it costs to check checksums on every look-up (`TreeOptions.verifiesReads`): the same tree, opened either way in
/// turn.
extension TreeRound {
  func verifying() {
    let names = ["look-up, not verifying", "look-up, verifying reads"]
    guard names.contains(where: wants) else { return }
    let count = min(n, 2_000_000)
    var random = Random(seed: options.seed &+ 10)
    let order = (0..<min(steady, count)).map { _ in space.key(Int.random(in: 0..<count, using: &random)) }
    let path = directory + "/verifying.nvm"
    unlink(path)
    defer { unlink(path) }
    do {
      let region = try PersistentRegion.create(at: path, size: 64 << 20, options: options.regionOptions)
      let heap = try PersistentHeap.format(region)
      let made = try DurableBTree<UInt64, UInt64>(in: heap, root: "verifying")
      try made.updateValues((0..<count).lazy.map { (space.key($0), UInt64($0)) })
      made.close()
      for turn in 0..<6 {
        var how = TreeOptions()
        how.verifiesReads = turn % 2 == 1
        let tree = try DurableBTree<UInt64, UInt64>(in: heap, root: "verifying", options: how)
        let slice = order[order.count * (turn / 2) / 3..<order.count * (turn / 2 + 1) / 3]
        var missing: UInt64 = 0
        let began = options.now()
        for key in slice where try tree[key] == nil { missing += 1 }
        results.add(
          key(names[turn % 2], n: count), ours, Sample(ns: options.now() - began, operations: slice.count))
        results.check(missing, names[turn % 2])
        tree.close()
      }
      heap.close()
      try region.close()
    } catch {
      results.check(1, "verifying reads: \(error)")
    }
  }
}
