import CNVM
import NVM

// What a store holds, read through its ordinary interface and checked on the way:
//
//   the trees are those that the workers make; keys and values are such as they write, in order, and counted
//   each live block is a tree's, a thread's links, one that exactly one link leads to, or one passing block of a thread
//   the store verifies
//
// so nothing has leaked, and nothing is used twice.

/// What a store holds, thread by thread.
struct Inventory {
  var states: [WorkState]
  /// Blocks that a thread had allocated and not yet freed: found by their owner.
  private(set) var passing: [Offset] = []

  /// - Parameter path: an existing store.
  init(_ store: NVMStore, threads: Int) throws {
    states = [WorkState](repeating: WorkState(), count: threads)
    let own = (0..<threads).map(WorkStore.ownTree)
    for name in store.treeNames where !["numbers", "words", "marks"].contains(name) && !own.contains(name) {
      throw Oddity(description: "there is a tree \"\(name)\"")
    }
    try readTrees(store)
    try readBlocks(store)
    let report = try store.verify()
    guard report.isClean, report.leakedBlocks == 0 else {
      throw Oddity(description: "verify: " + report.problems.prefix(8).joined(separator: " "))
    }
  }

  private mutating func readTrees(_ store: NVMStore) throws {
    try read(store, "numbers", Int.self, Int.self) { key, step in
      (key % WorkStore.stride, Item(.number, key / WorkStore.stride), Content(step: step))
    }
    try read(store, "words", String.self, String.self) { key, text in
      guard let (thread, number) = Self.owner(of: key[...]),
        let step = text.split(separator: " ").dropFirst().first,
        let step = Int(step)
      else { return nil }
      let content = Content(step: step, length: text.utf8.count)
      return Work.text(content) == text ? (thread, Item(.word, number), content) : nil
    }
    try read(store, "marks", String.self, Int.self) { key, step in
      guard key.hasPrefix(WorkStore.markPrefix),
        let (thread, number) = Self.owner(of: key.dropFirst(WorkStore.markPrefix.count))
      else { return nil }
      return (thread, Item(.mark, number), Content(step: step))
    }
    for thread in states.indices where store.hasTree(named: WorkStore.ownTree(thread)) {
      states[thread].items[Item(.ownTree)] = Content(step: 0)
      try read(store, WorkStore.ownTree(thread), Int.self, Int.self) { key, step in
        (thread, Item(.own, key), Content(step: step))
      }
    }
  }

  private static func owner(of key: Substring) -> (thread: Int, number: Int)? {
    let parts = key.split(separator: " ")
    guard parts.count == 3, parts[1] == "of", let number = Int(parts[0]), let thread = Int(parts[2]) else {
      return nil
    }
    return (thread, number)
  }

  private mutating func read<Key: DurableKey & Comparable, Value: DurableValue>(
    _ store: NVMStore, _ name: String, _: Key.Type, _: Value.Type,
    _ understand: (Key, Value) -> (thread: Int, item: Item, content: Content)?
  ) throws {
    guard store.hasTree(named: name) else { return }
    let tree = try store.tree(name, of: Key.self, Value.self)
    var count = 0
    var previous: Key?
    let look: ((key: Key, value: Value)) throws -> Void = { entry in
      let (key, value) = entry
      guard let (thread, item, content) = understand(key, value), states.indices.contains(thread),
        item.key >= 0
      else {
        throw Oddity(description: "tree \"\(name)\" holds \(key) → \(value), which no thread has written")
      }
      if let previous, !(previous < key) {
        throw Oddity(description: "tree \"\(name)\" has \(key) after \(previous)")
      }
      previous = key
      count += 1
      states[thread].items[item] = content
    }
    try tree[...].forEach(look)
    guard tree.count == count else {
      throw Oddity(description: "tree \"\(name)\" counts \(tree.count) entries and shows \(count)")
    }
  }

  private mutating func readBlocks(_ store: NVMStore) throws {
    var reachable: Set<Offset> = []
    for thread in states.indices {
      guard let links = try store.heap.root(named: "links \(thread)"), !links.isNull else { continue }
      reachable.insert(links)
      for slot in 0..<Work.slots {
        let block = Offset(rawValue: store.region.load(links + slot * 8))
        if block.isNull { continue }
        guard reachable.insert(block).inserted else {
          throw Oddity(description: "two links lead to the block at \(block)")
        }
        states[thread].items[Item(.block, slot)] = try Self.content(of: block, store)
      }
    }
    var found = 0
    var oddity: Oddity?
    try store.heap.forEachBlock { (block) throws(NVMError) in
      switch block.tag {
      case .treeRoot, .treeNodes, .treeRecord, .storeLog: break
      case WorkStore.passingTag where (1...UInt32(states.count)).contains(block.owner.rawValue):
        passing.append(block.payload)
      case WorkStore.linksTag, WorkStore.blockTag:
        if reachable.contains(block.payload) {
          found += 1
        } else {
          oddity = Oddity(
            description: "nothing leads to the block at \(block.payload), \(block.length) bytes")
        }
      default: oddity = Oddity(description: "the block at \(block.payload) has the tag \(block.tag.rawValue)")
      }
    }
    if let oddity { throw oddity }
    guard found == reachable.count else {
      throw Oddity(description: "of \(reachable.count) blocks that links lead to, \(found) are live")
    }
    guard passing.count <= states.count else {
      throw Oddity(description: "\(passing.count) passing blocks of \(states.count) threads")
    }
  }

  private static func content(of block: Offset, _ store: NVMStore) throws -> Content {
    let length = try store.heap.info(of: block).length
    guard length >= 16 else { throw Oddity(description: "the block at \(block) has \(length) bytes") }
    let content = Content(
      step: Int(truncatingIfNeeded: store.region.load(block)) & 0x7FF_FFFF_FFFF, length: length)
    let bytes = UnsafeRawBufferPointer(start: store.region.pointer(to: block), count: length)
    guard bytes.dropFirst(8).allSatisfy({ $0 == Work.filling(content) }) else {
      throw Oddity(description: "the block at \(block), \(content), is not filled as it was written")
    }
    return content
  }
}
