import Glibc

/// What a crash may leave of the medium, at one moment of a trace.
///
/// `base` is certainly durable. Over it each unit (a 64-byte line; a 512-byte sector in the models of
/// files) holds an ordered list of groups, the stores since:
///
/// - a word store is a group of its own; a bulk write, and bulk writes that directly follow it without a
///   flush, fence or word store between, is one group of words without order among them;
/// - a flush by thread T marks the groups present now; T's next fence makes them durable, nobody else's;
/// - a non-temporal word stands apart from the order, until the fence of the thread that wrote it.
///
/// Invariant: `hash` is the sum of `wordHash` over all words of `base`.
final class MediaState {
  /// One stored word of a group.
  struct Word {
    /// Index within the unit.
    var index: Int
    var value: UInt64
    /// The event that stored it.
    var event: Int
  }
  struct Group {
    /// Counts up within the unit.
    var id: Int
    var words: [Word]
    /// The thread that wrote it past the cache, or -1 for an ordinary group.
    var nontemporalThread: Int32
    var isOrdered: Bool { nontemporalThread < 0 }
  }
  struct Unit {
    var groups: [Group] = []
    var nextID = 0
    /// The thread and run whose bulk writes may still join the last group.
    var openThread: Int32 = -1
    var openRun = 0
  }
  private struct Thread {
    /// Counts the flushes and fences: bulk writes on both sides of one are ordered.
    var run = 0
    /// Units flushed since the last fence, each up to a group.
    var marks: [(unit: Int, upTo: Int)] = []
    var nontemporal: [Int] = []
    var pages: [Int] = []
  }

  let model: CrashModel
  let unitWords: Int
  let base: UnsafeMutablePointer<UInt64>
  private(set) var hash: UInt64 = 0
  /// The size of the file.
  private(set) var size: Int
  private(set) var dirty: [Int: Unit] = [:]
  private var threads: [Int32: Thread] = [:]
  private let capacityWords: Int

  init(model: CrashModel, image: UnsafeRawBufferPointer?, size: Int, capacity: Int) {
    self.model = model
    self.size = size
    unitWords = model.unitSize / 8
    capacityWords = (capacity + 4095) / 4096 * 512
    base = .allocate(capacity: capacityWords)
    base.initialize(repeating: 0, count: capacityWords)
    if let image {
      UnsafeMutableRawPointer(base).copyMemory(from: image.baseAddress!, byteCount: image.count)
      for i in 0..<image.count / 8 { hash &+= Self.wordHash(i, base[i]) }
    }
  }

  deinit { base.deallocate() }

  /// Whether a crash now may leave the same as one of `other`.
  func leavesTheSame(as other: MediaState) -> Bool {
    guard hash == other.hash, size == other.size, dirty.count == other.dirty.count else { return false }
    return dirty.allSatisfy { index, unit in
      guard let groups = other.dirty[index]?.groups, groups.count == unit.groups.count else { return false }
      return zip(unit.groups, groups).allSatisfy { a, b in
        a.nontemporalThread == b.nontemporalThread
          && a.words.elementsEqual(b.words) { $0.index == $1.index && $0.value == $1.value }
      }
    }
  }

  /// Zero for zero, so that the hash of an image does not depend on its size.
  @inline(__always)
  static func wordHash(_ index: Int, _ value: UInt64) -> UInt64 {
    value == 0 ? 0 : SeededGenerator.mix(SeededGenerator.mix(value) &+ UInt64(index) &* 0x9E37_79B9_7F4A_7C15)
  }

  /// Sets a durable word.
  @inline(__always)
  func setBase(_ index: Int, _ value: UInt64) {
    let old = base[index]
    guard old != value else { return }
    hash = hash &- Self.wordHash(index, old) &+ Self.wordHash(index, value)
    base[index] = value
  }

  func apply(_ event: Trace.Event, at position: Int, words: [UInt64]) {
    switch event.kind {
    case .store, .write, .nontemporal:
      if model == .automaticFlush {
        for i in 0..<event.count { setBase(event.offset / 8 + i, words[event.data + i]) }
      } else {
        store(event, position, words)
      }
    case .flush: flush(event)
    case .order, .fence: settle(event.thread)
    case .grow: size = event.count
    case .begin, .acknowledge, .nothing: break
    }
  }

  private func store(_ event: Trace.Event, _ position: Int, _ words: [UInt64]) {
    var i = 0
    let first = event.offset / 8
    let run = threads[event.thread, default: Thread()].run
    while i < event.count {
      let unit = (first + i) / unitWords
      let end = min(event.count, (unit + 1) * unitWords - first)
      var group: [Word] = []
      for j in i..<end {
        group.append(Word(index: (first + j) % unitWords, value: words[event.data + j], event: position))
      }
      add(group, to: unit, event, run)
      i = end
    }
  }

  private func add(_ words: [Word], to index: Int, _ event: Trace.Event, _ run: Int) {
    var unit = dirty.removeValue(forKey: index) ?? Unit()
    defer { dirty[index] = unit }
    switch event.kind {
    case .nontemporal:
      // The in-place file has no store past the page cache: there it notes the page as a flush does.
      let apart = model == .cacheLine
      unit.groups.append(
        Group(id: unit.nextID, words: words, nontemporalThread: apart ? event.thread : -1))
      unit.openThread = -1
      if apart {
        threads[event.thread, default: Thread()].nontemporal.append(index)
      } else {
        threads[event.thread, default: Thread()].pages.append(index * unitWords * 8 / 4096)
      }
    case .write:
      let joins = unit.openThread == event.thread && unit.openRun == run && !unit.groups.isEmpty
      // A word written twice keeps its order.
      if joins,
        !unit.groups[unit.groups.count - 1].words.contains(where: { old in
          words.contains { $0.index == old.index }
        })
      {
        unit.groups[unit.groups.count - 1].words += words
        return
      }
      unit.groups.append(Group(id: unit.nextID, words: words, nontemporalThread: -1))
      unit.openThread = event.thread
      unit.openRun = run
    default:
      unit.groups.append(Group(id: unit.nextID, words: words, nontemporalThread: -1))
      unit.openThread = -1
    }
    unit.nextID += 1
  }

  private func flush(_ event: Trace.Event) {
    var thread = threads.removeValue(forKey: event.thread) ?? Thread()
    defer { threads[event.thread] = thread }
    thread.run += 1
    guard event.count > 0 else { return }
    if model.isFile {
      thread.pages += event.offset / 4096...(event.offset + event.count - 1) / 4096
      return
    }
    for unit in event.offset / 64...(event.offset + event.count - 1) / 64 where dirty[unit] != nil {
      dirty[unit]!.openThread = -1
      thread.marks.append((unit, dirty[unit]!.nextID))
    }
  }

  /// The fence of `id`: what it flushed is durable.
  private func settle(_ id: Int32) {
    var thread = threads.removeValue(forKey: id) ?? Thread()
    thread.run += 1
    for (unit, upTo) in thread.marks { settle(unit) { $0.isOrdered && $0.id < upTo } }
    for unit in thread.nontemporal { settle(unit) { $0.nontemporalThread == id } }
    for page in Set(thread.pages) {
      for unit in page * 8..<page * 8 + 8 { settle(unit) { _ in true } }
    }
    thread.marks.removeAll(keepingCapacity: true)
    thread.nontemporal.removeAll(keepingCapacity: true)
    thread.pages.removeAll(keepingCapacity: true)
    threads[id] = thread
  }

  private func settle(_ index: Int, _ isDurable: (Group) -> Bool) {
    guard var unit = dirty.removeValue(forKey: index) else { return }
    var rest: [Group] = []
    for group in unit.groups {
      guard isDurable(group) else {
        rest.append(group)
        continue
      }
      for word in group.words {
        setBase(index * unitWords + word.index, word.value)
        // An older pending store of the word can no longer come out on top.
        for i in rest.indices { rest[i].words.removeAll { $0.index == word.index } }
      }
    }
    unit.groups = rest.filter { !$0.words.isEmpty }
    if !unit.groups.isEmpty {
      unit.openThread = -1
      dirty[index] = unit
    }
  }
}
