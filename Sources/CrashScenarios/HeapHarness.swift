package import NVMRegion
package import NVMalloc
import Synchronization
import Glibc

/// A heap as an application uses it, with an oracle for it.
///
/// A directory block, linked from a root, has cells: words that lead to blocks. Beside them there are blocks
/// that are held by owner token alone, as an application has them that was interrupted before linking.
/// Everything that lives in the heap must be the directory, a cell's block or an owner's block: what is
/// left over has leaked. Each block's bytes repeat a number, so that two blocks that overlap are found.
package final class HeapHarness: @unchecked Sendable {
  package static let cellCount = 12

  package struct Cell: Equatable, Sendable {
    package var id: UInt64
    package var size: Int
  }
  package struct State: Equatable, Sendable {
    package var cells: [Cell?]
    /// Sizes of the blocks held by owner tokens.
    package var held: [UInt32: Int] = [:]
    /// Owners whose block bears their stamp.
    package var stamped: Set<UInt32> = []
    package var roots: Set<String> = []
  }

  let region: PersistentRegion
  let heap: PersistentHeap
  private let directory: Offset
  private let owners: Mutex<[UInt32: Offset]>
  /// The cell that the taking thread of a handover has come to.
  private let turn = Atomic<Int>(0)

  private static let rootName = "cells"
  private static let directoryTag = BlockTag(rawValue: 1)
  private static let cellTag = BlockTag(rawValue: 2)

  package static func options(
    _ geometry: HeapGeometry = .tiny, quarantine: QuarantinePolicy = .none, shares: Int = 1
  ) -> HeapOptions {
    var options = HeapOptions()
    options.shareCount = shares
    options.geometry = geometry
    options.quarantine = quarantine
    options.growthIncrement = 8 << 10
    return options
  }

  private init(_ heap: PersistentHeap, _ directory: Offset, _ owners: [UInt32: Offset]) {
    region = heap.region
    self.heap = heap
    self.directory = directory
    self.owners = Mutex(owners)
  }

  package static func create(_ region: PersistentRegion, _ options: HeapOptions) throws -> HeapHarness {
    let heap = try PersistentHeap.format(region, options: options)
    let link = try heap.rootLink(named: rootName)
    let directory = try heap.place(byteCount: cellCount * 8, tag: directoryTag, into: link) { at in
      region.fill(at, count: cellCount * 8)
    }
    return HeapHarness(heap, directory, [:])
  }

  package static func open(_ region: PersistentRegion, _ options: HeapOptions) throws -> HeapHarness {
    let heap = try PersistentHeap.open(region, options: options)
    let problems = heap.statistics.recovery.problems
    guard problems.isEmpty else { throw ExampleError("opening reports damage: \(problems)") }
    guard let directory = try heap.root(named: rootName), !directory.isNull else {
      throw ExampleError("the directory is gone")
    }
    var owners: [UInt32: Offset] = [:]
    try heap.forEachBlock { info in
      if info.owner != .none { owners[info.owner.rawValue] = info.payload }
    }
    return HeapHarness(heap, directory, owners)
  }

  private func link(_ i: Int) -> Offset { directory + i * 8 }

  private func fill(_ at: Offset, _ cell: Cell) {
    withUnsafeTemporaryAllocation(byteCount: cell.size, alignment: 8) { buffer in
      for i in 0..<cell.size { buffer[i] = UInt8(truncatingIfNeeded: cell.id &>> UInt64(i & 7 * 8)) }
      region.write(UnsafeRawBufferPointer(buffer), at: at)
    }
  }

  private func read(_ at: Offset) throws -> Cell {
    let info = try heap.info(of: at)
    guard info.tag == Self.cellTag, info.length >= 8 else { throw ExampleError("a cell leads to \(info)") }
    let bytes = UnsafeRawBufferPointer(start: region.pointer(to: at), count: info.length)
    let id = bytes.loadUnaligned(as: UInt64.self)
    for i in 0..<info.length where bytes[i] != UInt8(truncatingIfNeeded: id &>> UInt64(i & 7 * 8)) {
      throw ExampleError("byte \(i) of the block at \(at) was overwritten")
    }
    return Cell(id: id, size: info.length)
  }

  package func observe() throws -> State {
    var state = State(cells: Array(repeating: nil, count: Self.cellCount))
    var reachable: Set<Offset> = [directory]
    for i in 0..<Self.cellCount {
      let at = Offset(rawValue: region.load(link(i)))
      guard !at.isNull else { continue }
      guard reachable.insert(at).inserted else { throw ExampleError("two cells lead to \(at)") }
      state.cells[i] = try read(at)
    }
    var lost: [BlockInfo] = []
    var held: [BlockInfo] = []
    var live = 0
    try heap.forEachBlock { info in
      live += 1
      if info.owner != .none {
        state.held[info.owner.rawValue] = info.length
        held.append(info)
      } else if !reachable.contains(info.payload) {
        lost.append(info)
      }
    }
    for info in held where try isStamped(info) { state.stamped.insert(info.owner.rawValue) }
    guard lost.isEmpty else { throw ExampleError("leaked: \(lost)") }
    guard live == reachable.count + state.held.count else {
      throw ExampleError(
        "\(live) live blocks, but \(reachable.count) are linked and \(state.held.count) held")
    }
    for name in heap.rootNames where name != Self.rootName {
      state.roots.insert(name)
      if try heap.root(named: name) == directory + 8 { state.roots.insert("\(name) moved") }
    }
    return state
  }

  package func verify() throws {
    let report = try heap.verify()
    guard report.isClean else { throw ExampleError("\(report.problems)") }
  }

  // MARK: Operations; each is right in any state, so that it can be repeated after a crash.

  func put(_ i: Int, _ cell: Cell) throws {
    let old = Offset(rawValue: region.load(link(i)))
    guard !old.isNull else {
      try heap.place(byteCount: cell.size, tag: Self.cellTag, into: link(i)) { at in fill(at, cell) }
      return
    }
    try heap.publish { publication throws(NVMError) in
      let at = try publication.reserve(byteCount: cell.size, tag: Self.cellTag)
      fill(at, cell)
      region.flush(at, count: cell.size)
      try publication.deallocate(old)
      try publication.set(at.rawValue, at: link(i))
    }
  }

  func remove(_ i: Int) throws {
    if region.load(link(i)) != 0 { try heap.remove(from: link(i)) }
  }

  /// Fills a cell once the other thread's `take` of the cell before has been acknowledged. This thread fences
  /// nothing meanwhile, so what its last step left unfenced is still so when that one returns.
  func hand(_ i: Int, _ cell: Cell) throws {
    while turn.load(ordering: .acquiring) < i { sched_yield() }
    try put(i, cell)
  }

  /// Waits for a block in the cell and removes it.
  func take(_ i: Int) throws -> Bool {
    turn.store(i, ordering: .releasing)
    while region.load(link(i)) == 0 { sched_yield() }
    try heap.remove(from: link(i))
    return true
  }

  /// Removes a cell's block if there is one.
  func takeIfThere(_ i: Int) throws -> Bool {
    guard region.load(link(i)) != 0 else { return false }
    try heap.remove(from: link(i))
    return true
  }

  /// Fills the cells of `entries` and empties those of `emptied`, in one step.
  func change(_ entries: [(Int, Cell)], emptied: [Int]) throws {
    try heap.publish { publication throws(NVMError) in
      for (i, cell) in entries {
        let old = Offset(rawValue: region.load(link(i)))
        let at = try publication.reserve(byteCount: cell.size, tag: Self.cellTag)
        fill(at, cell)
        region.flush(at, count: cell.size)
        if !old.isNull { try publication.deallocate(old) }
        try publication.set(at.rawValue, at: link(i))
      }
      for i in emptied {
        let old = Offset(rawValue: region.load(link(i)))
        if old.isNull { continue }
        try publication.deallocate(old)
        try publication.set(0, at: link(i))
      }
    }
  }

  /// Moves the cells' blocks together.
  func defragment() throws { try heap.defragment(pointers: (0..<Self.cellCount).map(link)) }

  func hold(_ owner: UInt32, _ size: Int) throws {
    guard owners.withLock({ $0[owner] }) == nil else { return }
    let at = try heap.allocate(byteCount: size, owner: OwnerToken(rawValue: owner))
    owners.withLock { $0[owner] = at }
  }

  /// The same, made durable by a step that changes nothing.
  func holdByEmptyStep(_ owner: UInt32, _ size: Int) throws {
    guard owners.withLock({ $0[owner] }) == nil else { return }
    let at = try heap.allocate(byteCount: size, owner: OwnerToken(rawValue: owner), durability: .deferred)
    try heap.publish { _ in }
    owners.withLock { $0[owner] = at }
  }

  func joinSpares() { heap.joinSpares() }
  func release(_ owner: UInt32) throws {
    guard let at = owners.withLock({ $0[owner] }) else { return }
    try heap.deallocate(at)
    owners.withLock { $0[owner] = nil }
  }

  /// Frees the blocks of those owners that hold one, in one call.
  func release(_ owners: [UInt32]) throws {
    let blocks = self.owners.withLock { held in owners.compactMap { held[$0] } }
    try heap.deallocate(contentsOf: blocks)
    self.owners.withLock { held in
      for owner in owners { held[owner] = nil }
    }
  }

  func resize(_ owner: UInt32, _ size: Int) throws {
    guard let at = owners.withLock({ $0[owner] }) else { return }
    let moved = try heap.reallocate(at, byteCount: size)
    owners.withLock { $0[owner] = moved }
  }

  private static func stampWord(_ owner: UInt32) -> UInt64 { 0x5354_414D_5000_0000 | UInt64(owner) }

  /// Writes words into a held block that name its owner; the first says that the rest is there. For owners that
  /// hold one block in a scenario and no more, since what a fresh block contains is not said.
  func stamp(_ owner: UInt32) throws {
    guard let at = owners.withLock({ $0[owner] }) else { return }
    let count = try heap.info(of: at).length / 8
    let word = Self.stampWord(owner)
    region.store(UInt64(count), at: at + 8)
    for i in 2..<count { region.store(word &+ UInt64(i) << 32, at: at + i * 8) }
    try region.persist(at, count: count * 8)
    try region.storeDurable(word, at: at)
  }

  /// Whether a block bears its owner's stamp; throws where that is torn.
  private func isStamped(_ info: BlockInfo) throws -> Bool {
    let word = Self.stampWord(info.owner.rawValue)
    guard info.length >= 16, region.load(info.payload) == word else { return false }
    let count = Int(truncatingIfNeeded: min(region.load(info.payload + 8), UInt64(info.length / 8)))
    for i in 2..<max(count, 2) where region.load(info.payload + i * 8) != word &+ UInt64(i) << 32 {
      throw ExampleError("word \(i) of \(info) is not what its owner wrote")
    }
    return true
  }

  func moveRoot(_ name: String) throws { try heap.setRoot(directory + 8, named: name) }

  func linkRoot(_ name: String) throws { _ = try heap.rootLink(named: name) }

  func setRoot(_ name: String, isThere: Bool) throws {
    if isThere {
      try heap.setRoot(directory, named: name)
    } else if try heap.root(named: name) != nil {
      try heap.removeRoot(named: name)
    }
  }

  package func close() { heap.close() }
}
