public import NVM

// What a worker does to a store, as a function of a seed and a step, and what must then be in it: the worker carries
// it out until it is killed, the test works out from the last acknowledged step what it has to find.
//
// Each thread of a worker has keys and a block of its own, so its steps do not depend on the other's progress.

/// One step of one thread.
public enum Work: Sendable {
  case setNumber(key: Int, value: Int)
  case removeNumber(key: Int)
  case setWord(key: String, value: String)
  case removeWord(key: String)
  /// A transaction over both trees.
  case both(number: Int, word: String, value: Int, removals: [Int])
  /// Replaces the thread's block in the heap by one of this many bytes.
  case block(byteCount: Int)

  /// The work of a step: always the same.
  public init(seed: UInt64, thread: Int, step: Int) {
    var state = seed &+ UInt64(thread) &* 0xA076_1D64_78BD_642F &+ UInt64(step) &* 0x9E37_79B9_7F4A_7C15
    func random(_ limit: Int) -> Int {
      state &+= 0x9E37_79B9_7F4A_7C15
      var z = (state ^ (state >> 30)) &* 0xBF58_476D_1CE4_E5B9
      z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
      return Int((z ^ (z >> 31)) % UInt64(limit))
    }
    let number = thread * 1000 + random(400)
    let word = "thread \(thread) has the key \(random(400))"
    switch random(20) {
    case 0..<6: self = .setNumber(key: number, value: step)
    case 6..<9: self = .removeNumber(key: number)
    case 9..<14: self = .setWord(key: word, value: Self.text(step, random(300)))
    case 14..<17: self = .removeWord(key: word)
    case 17..<19:
      self = .both(
        number: number, word: word, value: step, removals: (0..<4).map { _ in thread * 1000 + random(400) })
    default: self = .block(byteCount: 16 + random(6000))
    }
  }

  static func text(_ step: Int, _ length: Int) -> String {
    "step \(step) " + String(repeating: "x", count: length)
  }
}

/// What a thread's part of the store holds.
public struct WorkState: Equatable, Sendable {
  public var numbers: [Int: Int] = [:]
  public var words: [String: String] = [:]
  public var blockLength: Int?
  public init() {}

  public mutating func carryOut(_ work: Work) {
    switch work {
    case .setNumber(let key, let value): numbers[key] = value
    case .removeNumber(let key): numbers[key] = nil
    case .setWord(let key, let value): words[key] = value
    case .removeWord(let key): words[key] = nil
    case .both(let number, let word, let value, let removals):
      for key in removals { numbers[key] = nil }
      numbers[number] = value
      words[word] = Work.text(value, 40)
    case .block(let byteCount): blockLength = byteCount
    }
  }
}

/// The store of the workers.
public struct WorkStore: Sendable {
  public let store: NVMStore
  public let numbers: DurableBTree<Int, Int>
  public let words: DurableBTree<String, String>
  public static let threads = 2
  public static let blockTag = BlockTag(rawValue: 7)

  /// - Parameter combined: on a journaled file, protected from stray writes, with its wear counted; else on memory.
  public init(path: String, combined: Bool = false) throws {
    var options = NVMStoreOptions(media: combined ? .journaledFile : .emulated, initialSize: 2 << 20)
    if combined {
      options.protection = .deferred(interval: .milliseconds(1))
      options.countsWear = true
    }
    options.growthIncrement = 256 << 10
    options.quarantine = .quarantine(.milliseconds(2))
    store = try NVMStore(path: path, options: options)
    numbers = try store.tree("numbers", of: Int.self, Int.self)
    words = try store.tree("words", of: String.self, String.self)
  }

  private func link(_ thread: Int) throws -> Offset { try store.heap.rootLink(named: "block \(thread)") }

  public func carryOut(_ work: Work, thread: Int) throws {
    switch work {
    case .setNumber(let key, let value): try numbers.updateValue(value, forKey: key)
    case .removeNumber(let key): try numbers.removeValue(forKey: key)
    case .setWord(let key, let value): try words.updateValue(value, forKey: key)
    case .removeWord(let key): try words.removeValue(forKey: key)
    case .both(let number, let word, let value, let removals):
      try store.write { tx in
        for key in removals { try tx[numbers].removeValue(forKey: key) }
        try tx[numbers].setValue(value, forKey: number)
        try tx[words].setValue(Work.text(value, 40), forKey: word)
      }
    case .block(let byteCount):
      let link = try link(thread)
      let region = store.region
      let old = Offset(rawValue: region.load(link))
      try store.heap.publish { (publication) throws(NVMError) in
        let new = try publication.reserve(byteCount: byteCount, tag: Self.blockTag)
        region.fill(new, count: byteCount, with: UInt8(truncatingIfNeeded: byteCount))
        region.flush(new, count: byteCount)
        try publication.set(new.rawValue, at: link)
        if !old.isNull { try publication.deallocate(old) }
      }
    }
  }

  /// What a thread's part holds now.
  public func state(thread: Int) throws -> WorkState {
    var state = WorkState()
    try numbers[(thread * 1000)..<(thread * 1000 + 1000)].forEach { state.numbers[$0.key] = $0.value }
    try words["thread \(thread) "..<"thread \(thread)~"].forEach { state.words[$0.key] = $0.value }
    let block = Offset(rawValue: store.region.load(try link(thread)))
    if !block.isNull {
      let length = try store.heap.info(of: block).length
      let bytes = UnsafeRawBufferPointer(start: store.region.pointer(to: block), count: length)
      state.blockLength = bytes.allSatisfy { $0 == UInt8(truncatingIfNeeded: length) } ? length : -1
    }
    return state
  }

  /// Blocks of the workers' own in the heap.
  public func blockCount() throws -> Int {
    var count = 0
    try store.heap.forEachBlock(tag: Self.blockTag) { (_) throws(NVMError) in count += 1 }
    return count
  }
}
