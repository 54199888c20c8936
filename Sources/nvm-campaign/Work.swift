// What the threads of a worker do to a store, as a function of a seed, a thread and a step, and what must then be in
// the store. The worker carries a step out on the store, the campaign carries it out on a `WorkState`.
//
// Each thread has keys, blocks and a tree of its own, in the same leaves and slabs as those of the others: so what it
// must find depends on its own steps alone, while all of them meet on the medium.

/// Something a thread can store: a key of a tree, or a link to a block.
struct Item: Hashable, Comparable, RawRepresentable {
  enum Kind: UInt64 {
    case number = 1, word, mark, block, ownTree, own
  }
  let rawValue: UInt64
  init(rawValue: UInt64) { self.rawValue = rawValue }
  init(_ kind: Kind, _ key: Int = 0) { rawValue = kind.rawValue << 32 | UInt64(key) }
  var kind: Kind? { Kind(rawValue: rawValue >> 32) }
  var key: Int { Int(rawValue & 0xFFFF_FFFF) }
  static func < (a: Item, b: Item) -> Bool { a.rawValue < b.rawValue }
}

extension Item: CustomStringConvertible {
  var description: String { "\(kind.map { "\($0)" } ?? "?") \(key)" }
}

/// What an item holds: the step that stored it, and for texts and blocks a length.
struct Content: Hashable {
  static let lengthBits = 20
  let rawValue: UInt64
  init(rawValue: UInt64) { self.rawValue = rawValue }
  init(step: Int, length: Int = 0) { rawValue = UInt64(step) << UInt64(Self.lengthBits) | UInt64(length) }
  var step: Int { Int(rawValue >> UInt64(Self.lengthBits)) }
  var length: Int { Int(rawValue & (1 << UInt64(Self.lengthBits) - 1)) }
}

extension Content: CustomStringConvertible {
  var description: String { length == 0 ? "step \(step)" : "step \(step), \(length) bytes" }
}

/// One step of one thread.
enum Work {
  case set(Item, Content)
  case remove(Item)
  /// All or nothing, over three trees.
  case transaction([(item: Item, content: Content?)])
  /// Links a block, in the place of the one that is there.
  case placeBlock(slot: Int, Content)
  case removeBlock(slot: Int)
  case swapBlocks(Int, Int)
  /// Allocates a block of its own, changes its size, and frees it: leaves nothing.
  case passingBlock(length: Int, then: Int)
  case makeTree
  case removeTree
  /// Appends ascending entries to the thread's own tree, in one step.
  case load(first: Int, count: Int, Content)
  /// Removes a range of the thread's own tree: a leaf at a time, from below.
  case clear(Range<Int>)

  static let slots = 12

  init(seed: UInt64, thread: Int, step: Int) {
    var random = Random(
      seed &+ UInt64(thread) &* 0xA076_1D64_78BD_642F ^ UInt64(step) &* 0xE703_7ED1_A0B4_28DB)
    func number() -> Item { Item(.number, random.below(600)) }
    func word() -> Item { Item(.word, random.below(250)) }
    func mark() -> Item { Item(.mark, random.below(250)) }
    func text() -> Content {
      Content(step: step, length: 24 + (random.oneIn(40) ? random.below(4000) : random.below(200)))
    }
    switch random.below(200) {
    case 0..<44: self = .set(number(), Content(step: step))
    case 44..<68: self = .remove(number())
    case 68..<88: self = .set(word(), text())
    case 88..<104: self = .remove(word())
    case 104..<118: self = .set(mark(), Content(step: step))
    case 118..<128: self = .remove(mark())
    case 128..<152:
      var changes: [(item: Item, content: Content?)] = [
        (number(), Content(step: step)), (word(), text()), (mark(), Content(step: step)),
      ]
      for _ in 0..<(random.oneIn(8) ? random.below(40) : random.below(5)) {
        let item = random.oneIn(2) ? number() : mark()
        changes.append((item, random.oneIn(3) ? nil : Content(step: step)))
      }
      self = .transaction(changes)
    case 152..<172:
      let slot = random.below(Self.slots)
      // One slot holds what is too large for a slab.
      let length = slot == 0 ? 16 + random.below(300_000) : 16 + random.below(1 << (4 + random.below(10)))
      self = .placeBlock(slot: slot, Content(step: step, length: length))
    case 172..<180: self = .removeBlock(slot: random.below(Self.slots))
    case 180..<184: self = .swapBlocks(random.below(Self.slots), random.below(Self.slots))
    case 184..<189: self = .passingBlock(length: random.below(3000), then: random.below(6000))
    case 189: self = .makeTree
    case 190: self = random.oneIn(3) ? .removeTree : .makeTree
    case 191..<195: self = .set(Item(.own, random.below(60)), Content(step: step))
    // Above whatever an earlier step has loaded.
    case 195: self = .load(first: 1000 + step * 64, count: 1 + random.below(64), Content(step: step))
    case 196:
      let first = random.oneIn(2) ? random.below(60) : 60
      self = .clear(first..<(first == 60 ? Int(UInt32.max) : first + random.below(40)))
    default: self = .remove(Item(.own, random.below(60)))
    }
  }

  /// A text of `content.length` bytes that nothing else can be taken for.
  static func text(_ content: Content) -> String {
    let start = "step \(content.step) "
    return start + String(repeating: "x", count: max(0, content.length - start.utf8.count))
  }

  /// The byte that a block is filled with after its first word, which is the step.
  static func filling(_ content: Content) -> UInt8 {
    UInt8(truncatingIfNeeded: content.step &* 31 &+ content.length | 1)
  }
}

/// What the items of a thread hold.
struct WorkState: Equatable {
  var items: [Item: Content] = [:]

  mutating func carryOut(_ work: Work) {
    switch work {
    case .set(let item, let content):
      // A tree of its own is filled only while it is there.
      if item.kind != .own || items[Item(.ownTree)] != nil { items[item] = content }
    case .remove(let item): items[item] = nil
    case .transaction(let changes):
      for change in changes { items[change.item] = change.content }
    case .placeBlock(let slot, let content): items[Item(.block, slot)] = content
    case .removeBlock(let slot): items[Item(.block, slot)] = nil
    case .swapBlocks(let a, let b):
      let old = items[Item(.block, a)]
      items[Item(.block, a)] = items[Item(.block, b)]
      items[Item(.block, b)] = old
    case .passingBlock: break
    case .makeTree: items[Item(.ownTree)] = Content(step: 0)
    case .removeTree:
      for item in items.keys where item.kind == .own || item.kind == .ownTree { items[item] = nil }
    case .load(let first, let count, let content):
      guard items[Item(.ownTree)] != nil else { break }
      for key in first..<first + count { items[Item(.own, key)] = content }
    case .clear(let range):
      for item in items.keys where item.kind == .own && range.contains(item.key) { items[item] = nil }
    }
  }

  /// Whether `work`, cut short in this state, may leave `found`: of a range that is removed, the lower part is gone.
  func mayBecome(_ found: WorkState, amid work: Work) -> Bool {
    guard case .clear(let range) = work else { return false }
    let left = found.items.keys.filter { $0.kind == .own && range.contains($0.key) }.map(\.key).min()
    var state = self
    state.carryOut(.clear(range.lowerBound..<(left ?? range.upperBound)))
    return state == found
  }

  /// How another state differs, in a few words.
  func difference(from expected: WorkState) -> String {
    let keys = Set(items.keys).union(expected.items.keys).filter { items[$0] != expected.items[$0] }.sorted()
    func say(_ content: Content?) -> String { content.map { "\($0)" } ?? "nothing" }
    let some = keys.prefix(6).map { "\($0): \(say(items[$0])) instead of \(say(expected.items[$0]))" }
    return some.joined(separator: "; ") + (keys.count > 6 ? "; … (\(keys.count) in all)" : "")
  }
}
