import NVMBTree
import NVMRegion
import NVMalloc

// A transaction over several trees.
//
//   1  the body runs; its changes are kept in DRAM. A tree that it touches is held: other writers wait, so what the
//      body read stays so
//   2  the changes, as one checksummed log, are placed under the heap's root "nvm.log"      <- the atomic step
//   3  readers of the trees wait; each change goes in as an ordinary update
//   4  the log is removed; readers and writers go on
//
// A crash before 2 leaves nothing, after it a log that the next opening carries out again from the start: each change
// sets or removes a key, and no other writer came in between. A change that finds no room in 3 is no crash: the
// changes that went in are taken back by the values they replaced, then the log is removed, and the transaction has
// not happened.
//
// On a journaled file the journal itself has atomic steps: all changes of a transaction are one, there is no log, and
// nobody is kept out while the disk is waited for. Only a transaction too large for that takes the way above. Why this gate and no other: Documentation/Decisions/transactions.md.
extension NVMStore {
  /// Carries out changes of any number of trees as one: all of them or none, durable on return.
  ///
  /// ```swift
  /// try store.write { tx in
  ///   try tx[ages].updateValue(42, forKey: "ada")
  ///   try tx[log].removeValue(forKey: 7)
  /// }
  /// ```
  ///
  /// - Reads by `tx[tree]` see the transaction's own changes. What `body` throws discards them all.
  /// - Transactions run one at a time, and are serializable: from the first `tx[tree]` on, other threads' writes to
  ///   that tree wait until the transaction has ended. Other threads' readers see nothing of it before all of it;
  ///   while its changes go in they wait.
  /// - Inside of `body`, change its trees by `tx[tree]` only: a direct write to one of them throws. So does a
  ///   transaction in a transaction.
  /// - Costs: a log of all changed keys and values, and the changes themselves. A single change needs no log.
  ///
  /// - Throws: what `body` throws; `.outOfSpace`, `.diskFull`, `.tooLarge`, `.readOnly`, `.closed`: then nothing has
  ///   happened. After a failed sync (`.ioFailure`, `.poisoned`) it may have, as a whole: open the store anew to see.
  public func write<Result>(_ body: (StoreTransaction) throws -> Result) throws -> Result {
    try region.checkWritable()
    let result = try settle(body)
    try region.acknowledge()
    return result
  }

  /// What of a transaction needs its locks: on return it has happened, and is durable once acknowledged.
  private func settle<Result>(_ body: (StoreTransaction) throws -> Result) throws -> Result {
    try turn.lock("A transaction is open on this thread already. Transactions do not nest.")
    defer { turn.unlock() }
    try state.withLock { (state) throws(NVMError) in try checkUsable(state) }
    let transaction = StoreTransaction(self)
    defer { transaction.end() }
    let result = try body(transaction)
    try commit(transaction)
    return result
  }

  private func commit(_ transaction: StoreTransaction) throws(NVMError) {
    let changes = transaction.takeChanges()
    let count = changes.reduce(0) { $0 + $1.changes.count }
    guard count > 0 else { return }
    let held = transaction.held
    if try commitAtOnce(changes, held) { return }
    // On a journal the log and what follows it are waited for once, by the caller.
    let isDeferred = region.beginDeferral()
    defer { if isDeferred { region.endDeferral() } }
    if count > 1 {
      let bytes = try StoreLog.encode(changes, region.uuid)
      try heap.place(byteCount: bytes.count, tag: .storeLog, into: logLink) { (offset) throws(NVMError) in
        bytes.span.withUnsafeBytes { region.write($0, at: offset) }
      }
    }
    for tree in held.values { tree.beginApplying() }
    defer { for tree in held.values { tree.endApplying() } }
    try apply(changes, to: held, isLogged: count > 1)
    if count > 1 { try heap.remove(from: logLink) }
  }

  /// Carries the changes out as one atomic step of the journal. False where there is none that takes them.
  private func commitAtOnce(
    _ changes: [TreeChanges], _ held: [UInt32: EncodedTree]
  ) throws(NVMError) -> Bool {
    let capacity = region.deferralCapacity
    guard capacity > 0 else { return false }
    // A change may split a leaf and need a new block; what it needs beyond is shared with many others.
    var bytes = 0
    for tree in changes {
      for change in tree.changes { bytes += 1024 + change.key.count + (change.value?.count ?? 0) }
    }
    guard bytes <= capacity, region.beginDeferral(isAtomic: true) else { return false }
    for tree in held.values { tree.beginApplying() }
    defer {
      for tree in held.values { tree.endApplying() }
      region.endDeferral(isAtomic: true)
    }
    try apply(changes, to: held, isLogged: false)
    return true
  }

  /// Carries the changes out. Where one fails, those before it are taken back, and the log is removed.
  private func apply(
    _ changes: [TreeChanges], to trees: [UInt32: EncodedTree], isLogged: Bool
  ) throws(NVMError) {
    do throws(NVMError) {
      for each in changes { try trees[each.number]?.exchange(each.changes, noting: each.replaced) }
    } catch {
      do throws(NVMError) {
        // Removals first, of all trees: they make room.
        for each in changes { try trees[each.number]?.removeNew(each.changes, each.replaced) }
        for each in changes { try trees[each.number]?.putBack(each.changes, each.replaced) }
        if isLogged { try heap.remove(from: logLink) }
      } catch let second {
        // A log stays; a step of the journal is never written. Only an opening may go on from here: a later writer
        // could be undone by it.
        let failure = NVMError(
          code: .poisoned,
          message:
            "A transaction could neither be finished nor taken back, so nothing more is written. Make room "
            + "and open the store anew: it will be finished then.", path: path, underlying: second)
        region.poison(failure)
        throw failure
      }
      throw error
    }
  }
}
