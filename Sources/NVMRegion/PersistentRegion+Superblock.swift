import CNVM

extension PersistentRegion {
  /// Writes both superblock copies, the older first, each durable before the next is touched. The update
  /// holds with the first; after the second neither copy's loss can take it back. Called with the state lock.
  ///
  ///     A:n  B:n-1   --write B:n+1-->   A:n  B:n+1 (holds)   --write A:n+2-->   A:n+2  B:n+1
  func updateSuperblock(_ state: inout State, _ change: (inout Superblock) -> Void) throws(NVMError) {
    for _ in 0..<2 {
      var next = state.superblock
      change(&next)
      next.sequence = state.superblock.sequence + 1
      let copy = 1 - state.newestCopy
      try writeSuperblock(next, copy: copy)
      state.superblock = next
      state.newestCopy = copy
    }
  }

  func writeSuperblock(_ superblock: Superblock, copy: Int) throws(NVMError) {
    let at = Offset(copy * SuperblockLayout.copyStride)
    let bytes = superblock.encoded()
    if let medium,
      try bytes.span.withUnsafeBytes({ (b) throws(NVMError) in try medium.writeHeader(b, at: at.bytes) })
    {
      counterTable.add(1, .fences)
      return
    }
    bytes.withUnsafeBytes { write($0, at: at) }
    flush(at, count: SuperblockLayout.size)
    // `settle` may poison, which takes the state lock that is held here: go to the medium directly.
    try fenceUnderStateLock()
  }

  func fenceUnderStateLock() throws(NVMError) {
    if let medium { try medium.fence() } else { nvm_store_fence() }
    counterTable.add(1, .fences)
  }
}
