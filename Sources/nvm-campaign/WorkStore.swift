import CNVM
import Glibc
import NVM

/// Which medium a campaign runs its store on.
enum StoreMedia: String, CaseIterable {
  case emulated
  case inPlace = "inplace"
  case journaled

  /// Whether what it acknowledges is safe from a power failure: emulated memory is safe from the end of a process.
  var survivesPowerCuts: Bool { self != .emulated }

  var choice: RegionOptions.MediaChoice {
    switch self {
    case .emulated: .emulated
    case .inPlace: .inPlaceFile
    case .journaled: .journaledFile
    }
  }
}

/// What a campaign's store should not hold.
struct Oddity: Error, CustomStringConvertible {
  var description: String
}

/// A store as the workers use it.
struct WorkStore: Sendable {
  typealias Numbers = DurableBTree<Int, Int>
  let store: NVMStore
  let numbers: Numbers
  let words: DurableBTree<String, String>
  let marks: DurableBTree<String, Int>
  /// The first link of each thread.
  let links: [Offset]

  static let linksTag = BlockTag(rawValue: 6)
  static let blockTag = BlockTag(rawValue: 7)
  static let passingTag = BlockTag(rawValue: 8)

  static func options(_ media: StoreMedia) -> NVMStoreOptions {
    var options = NVMStoreOptions(media: media.choice, initialSize: 1 << 20)
    options.growthIncrement = 256 << 10
    // Gone round many times in a life, with its checkpoints.
    options.journalSize = 192 << 10
    options.quarantine = .quarantine(.milliseconds(2))
    // Small nodes: splits and merges all the time.
    options.treeOptions = TreeOptions(leafCapacity: 8, innerCapacity: 8, extentBytes: 16 << 10)
    return options
  }

  /// Opens the store, or makes it, with all that the threads need.
  init(path: String, media: StoreMedia, threads: Int) throws {
    store = try NVMStore(path: path, options: Self.options(media))
    let store = store
    numbers = try store.tree("numbers", of: Int.self, Int.self)
    words = try store.tree("words", of: String.self, String.self)
    marks = try store.tree("marks", of: String.self, Int.self)
    links = try (0..<threads).map { thread in
      let link = try store.heap.rootLink(named: "links \(thread)")
      if store.region.load(link) == 0 {
        let count = Work.slots * 8
        try store.heap.place(byteCount: count, tag: Self.linksTag, into: link) { (offset) throws(NVMError) in
          store.region.fill(offset, count: count)
        }
      }
      return Offset(rawValue: store.region.load(link))
    }
  }

  // Keys of the threads alternate, so that they share leaves.
  static let stride = 16
  static let markPrefix = "a prefix that all keys of this tree have in common, longer than a key's head / "
  static func number(_ thread: Int, _ key: Int) -> Int { key * stride + thread }
  static func word(_ thread: Int, _ key: Int) -> String { "\(key) of \(thread)" }
  static func mark(_ thread: Int, _ key: Int) -> String { markPrefix + "\(key) of \(thread)" }
  static func ownTree(_ thread: Int) -> String { "tree of \(thread)" }

  private func link(_ thread: Int, _ slot: Int) -> Offset { links[thread] + slot * 8 }

  // MARK: Carrying out

  func carryOut(_ work: Work, thread: Int) throws {
    switch work {
    case .set(let item, let content): try set(item, content, thread)
    case .remove(let item): try remove(item, thread)
    case .transaction(let changes):
      try store.write { transaction in
        for (item, content) in changes { try change(item, content, thread, transaction) }
      }
    case .placeBlock(let slot, let content): try placeBlock(content, link(thread, slot))
    case .removeBlock(let slot):
      if store.region.load(link(thread, slot)) != 0 { try store.heap.remove(from: link(thread, slot)) }
    case .swapBlocks(let a, let b):
      let (first, second) = (link(thread, a), link(thread, b))
      let (old, new) = (store.region.load(first), store.region.load(second))
      try store.heap.publish { (publication) throws(NVMError) in
        try publication.set(new, at: first)
        try publication.set(old, at: second)
      }
    case .passingBlock(let length, let then):
      let owner = OwnerToken(rawValue: UInt32(thread) + 1)
      var block = try store.heap.allocate(byteCount: length, tag: Self.passingTag, owner: owner)
      block = try store.heap.reallocate(block, byteCount: then)
      try store.heap.deallocate(block)
    case .makeTree: _ = try store.tree(Self.ownTree(thread), of: Int.self, Int.self)
    case .removeTree:
      if store.hasTree(named: Self.ownTree(thread)) { try store.removeTree(named: Self.ownTree(thread)) }
    case .load(let first, let count, let content):
      try ownTree(thread)?.append(contentsOf: (first..<first + count).map { ($0, content.step) })
    case .clear(let range): try Self.clear(range, of: thread, in: store)
    }
  }

  static func clear(_ range: Range<Int>, of thread: Int, in store: NVMStore) throws {
    guard store.hasTree(named: ownTree(thread)) else { return }
    try store.tree(ownTree(thread), of: Int.self, Int.self).removeAll(in: range)
  }

  private func ownTree(_ thread: Int) throws -> Numbers? {
    guard store.hasTree(named: Self.ownTree(thread)) else { return nil }
    return try store.tree(Self.ownTree(thread), of: Int.self, Int.self)
  }

  private func set(_ item: Item, _ content: Content, _ thread: Int) throws {
    switch item.kind {
    case .number:
      let key = Self.number(thread, item.key)
      // Three ways to say the same.
      switch content.step % 3 {
      case 0: try numbers.setValue(content.step, forKey: key)
      case 1: try numbers.updateValue(content.step, forKey: key)
      default: _ = try numbers.updateValue(forKey: key) { _ in content.step }
      }
    case .word: try words.updateValue(Work.text(content), forKey: Self.word(thread, item.key))
    case .mark: try marks.updateValue(content.step, forKey: Self.mark(thread, item.key))
    case .own: try ownTree(thread)?.updateValue(content.step, forKey: item.key)
    default: throw Oddity(description: "\(item) cannot be set")
    }
  }

  private func remove(_ item: Item, _ thread: Int) throws {
    switch item.kind {
    case .number: try numbers.removeValue(forKey: Self.number(thread, item.key))
    case .word: try words.removeValue(forKey: Self.word(thread, item.key))
    case .mark: _ = try marks.updateValue(forKey: Self.mark(thread, item.key)) { _ in nil }
    case .own: try ownTree(thread)?.removeValue(forKey: item.key)
    default: throw Oddity(description: "\(item) cannot be removed")
    }
  }

  private func change(
    _ item: Item, _ content: Content?, _ thread: Int, _ transaction: StoreTransaction
  ) throws {
    switch (item.kind, content) {
    case (.number, let content?):
      try transaction[numbers].setValue(content.step, forKey: Self.number(thread, item.key))
    case (.number, nil): try transaction[numbers].removeValue(forKey: Self.number(thread, item.key))
    case (.word, let content?):
      try transaction[words].setValue(Work.text(content), forKey: Self.word(thread, item.key))
    case (.mark, let content?):
      try transaction[marks].updateValue(content.step, forKey: Self.mark(thread, item.key))
    case (.mark, nil): try transaction[marks].removeValue(forKey: Self.mark(thread, item.key))
    default: throw Oddity(description: "\(item) has no place in a transaction")
    }
  }

  private func placeBlock(_ content: Content, _ link: Offset) throws {
    let region = store.region
    var bytes = [UInt8](repeating: Work.filling(content), count: content.length)
    bytes.withUnsafeMutableBytes { $0.storeBytes(of: UInt64(content.step), as: UInt64.self) }
    let old = Offset(rawValue: region.load(link))
    if old.isNull {
      try store.heap.place(byteCount: content.length, tag: Self.blockTag, into: link) {
        (new) throws(NVMError) in
        bytes.withUnsafeBytes { region.write($0, at: new) }
      }
    } else {
      try store.heap.publish { (publication) throws(NVMError) in
        let new = try publication.reserve(byteCount: content.length, tag: Self.blockTag)
        bytes.withUnsafeBytes { region.writeFlushed($0, at: new) }
        try publication.set(new.rawValue, at: link)
        try publication.deallocate(old)
      }
    }
  }
}
