import CNVM
import Glibc

/// Memory that the campaign shares with its children: what they acknowledge, and what they have to say.
///
/// An acknowledgement is a word stored after the operation has returned. It outlives the child, and the campaign can
/// read all of them at any moment. The shim copies the promised half into the frozen half at a cut.
struct Board: @unchecked Sendable {
  static let maximumThreads = 15
  static let halfCount = 64
  private static let messageStart = 2048
  private static let messageRoom = 30_000
  private let words: UnsafeMutablePointer<UInt64>

  init() {
    let p = mmap(nil, 1 << 15, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)
    guard let p, p != MAP_FAILED else { fatalError("no memory for the board") }
    words = p.bindMemory(to: UInt64.self, capacity: 1 << 12)
  }

  /// A promise is in word `i` of a half: 0 whether the store is set up, then two of each thread. The last marks the
  /// half as copied.
  struct Promises {
    fileprivate let words: UnsafeMutablePointer<UInt64>
    private func get(_ i: Int) -> Int { Int(nvm_load_acquire(words + i)) }
    private func set(_ i: Int, _ value: Int) { nvm_store_release(words + i, UInt64(value)) }

    var isSetUp: Bool {
      get { get(0) != 0 }
      nonmutating set { set(0, newValue ? 1 : 0) }
    }
    /// The steps of a thread that have returned.
    func done(_ thread: Int) -> Int { get(1 + 2 * thread) }
    func setDone(_ thread: Int, _ count: Int) { set(1 + 2 * thread, count) }
    /// The steps of a thread that a reader has seen something of, up to the last.
    func seen(_ thread: Int) -> Int { get(2 + 2 * thread) }
    func sawStep(_ step: Int, of thread: Int) {
      if step >= get(2 + 2 * thread) { set(2 + 2 * thread, step + 1) }
    }
    var isComplete: Bool {
      get { get(Board.halfCount - 1) != 0 }
      nonmutating set { set(Board.halfCount - 1, newValue ? 1 : 0) }
    }
  }
  var promised: Promises { Promises(words: words) }
  var frozen: Promises { Promises(words: words + Self.halfCount) }
  var promisedWords: UnsafeMutablePointer<UInt64> { words }
  var frozenWords: UnsafeMutablePointer<UInt64> { words + Self.halfCount }

  /// For a new round: threads stand where they stopped.
  func reset(_ done: [Int]) {
    memset(words, 0, Self.messageStart)
    message = ""
    for (thread, count) in done.enumerated() {
      promised.setDone(thread, count)
      promised.sawStep(count - 1, of: thread)
    }
    promised.isComplete = true
  }

  /// What is promised until now counts; nothing later does.
  func freeze() {
    for i in 0..<Self.halfCount { nvm_store_release(frozenWords + i, nvm_load_acquire(promisedWords + i)) }
  }

  /// The steps of a thread that a checker has found done.
  func found(_ thread: Int) -> Int { Int(nvm_load_acquire(words + 128 + thread)) }
  func setFound(_ thread: Int, _ count: Int) { nvm_store_release(words + 128 + thread, UInt64(count)) }
  /// A number for what a child did: changes replayed by a checker, syncs of a worker.
  func count(_ i: Int) -> Int { Int(nvm_load_acquire(words + 160 + i)) }
  func setCount(_ i: Int, _ value: Int) { nvm_store_release(words + 160 + i, UInt64(value)) }

  var message: String {
    get {
      let start = UnsafeRawPointer(words) + Self.messageStart + 8
      let count = Int(nvm_load_acquire(UnsafeRawPointer(words) + Self.messageStart))
      return String(decoding: UnsafeRawBufferPointer(start: start, count: count), as: UTF8.self)
    }
    nonmutating set {
      let bytes = Array(newValue.utf8.prefix(Self.messageRoom))
      bytes.withUnsafeBytes {
        if let p = $0.baseAddress {
          memcpy(UnsafeMutableRawPointer(words) + Self.messageStart + 8, p, $0.count)
        }
      }
      nvm_store_release(UnsafeMutableRawPointer(words) + Self.messageStart, UInt64(bytes.count))
    }
  }
}
