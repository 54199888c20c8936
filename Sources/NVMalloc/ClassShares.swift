import CNVM
import Glibc

/// The size classes of a heap in memory, and its large objects, in *shares*: each share has, of every class, slabs, a
/// quarantine and a lock of its own, on lines of their own.
///
/// A class begins with the first share, and stays with it until threads wait for each other there: then their number
/// doubles, and a thread goes to the one that its slot says. So a program with one thread at a time has one share, a class
/// that threads seldom meet at has one too, and nothing has to be given up when a thread ends: whoever has its slot next
/// goes on, and shares take from each other what they need.
///
///     table of a share:  | lock, resting, live, allowance | SizeClass ........ |  for each class
///                        | lock, words                    | ObjectShare ...... |  for large objects
struct ClassShares: @unchecked Sendable {
  typealias Share = UnsafeMutablePointer<SizeClass>

  let classCount: Int
  /// What stands for the large objects where a class has its index.
  var objectIndex: Int { classCount }
  /// The most shares of a class, a power of two.
  let limit: Int
  /// Addresses of tables, 0 where there is none yet; they come in the order of their numbers and stay.
  private let tables: UnsafeMutableRawPointer
  /// For each class, the bits of a thread's slot that are its share's number.
  private let masks: UnsafeMutableRawPointer

  /// Bytes of one share of one class: the lock's line, apart from what it guards, and that.
  static let stride = 64 + SizeClass.size

  init(classCount: Int, beginningWith count: Int) {
    assert(MemoryLayout<SizeClass>.stride == SizeClass.size, "whole lines")
    self.classCount = classCount
    var limit = 8
    while limit < min(sysconf(Int32(_SC_NPROCESSORS_ONLN)), 64) { limit *= 2 }
    self.limit = limit
    tables = .allocate(byteCount: limit * 8, alignment: 64)
    tables.initializeMemory(as: UInt8.self, repeating: 0, count: limit * 8)
    masks = .allocate(byteCount: (classCount + 1) * 8, alignment: 64)
    masks.initializeMemory(as: UInt8.self, repeating: 0, count: (classCount + 1) * 8)
    makeTable(0)
    var n = 1
    while n < min(count, limit) {
      for index in 0...objectIndex { widen(index) }
      n *= 2
    }
  }

  func deallocate() {
    for number in 0..<limit {
      guard let table = table(number) else { continue }
      deallocate(table)
    }
    tables.deallocate()
    masks.deallocate()
  }
  private func deallocate(_ table: UnsafeMutableRawPointer) {
    for index in 0..<classCount { share(table, index).pointee.deallocate() }
    objects(table).pointee.deallocate()
    table.deallocate()
  }

  // MARK: Finding shares

  @inline(__always)
  private func table(_ number: Int) -> UnsafeMutableRawPointer? {
    UnsafeMutableRawPointer(bitPattern: UInt(nvm_load_acquire(tables + number &* 8)))
  }
  @inline(__always)
  private func share(_ table: UnsafeMutableRawPointer, _ index: Int) -> Share {
    (table + (index &* Self.stride &+ 64)).assumingMemoryBound(to: SizeClass.self)
  }
  @inline(__always)
  private func objects(_ table: UnsafeMutableRawPointer) -> UnsafeMutablePointer<ObjectShare> {
    (table + (classCount &* Self.stride &+ 64)).assumingMemoryBound(to: ObjectShare.self)
  }
  @inline(__always)
  private func ownTable(_ index: Int) -> UnsafeMutableRawPointer {
    let number = UInt64(UInt32(bitPattern: nvm_thread_slot())) & nvm_load_acquire(masks + index &* 8)
    return table(Int(truncatingIfNeeded: number)).unsafelyUnwrapped
  }
  /// The share of a class that the calling thread goes to.
  @inline(__always)
  func own(_ index: Int) -> Share { share(ownTable(index), index) }
  /// The same for large objects.
  var ownObjects: UnsafeMutablePointer<ObjectShare> { objects(ownTable(objectIndex)) }
  /// The share that slabs known from an earlier opening go to.
  func first(_ index: Int) -> Share { share(table(0).unsafelyUnwrapped, index) }
  /// How many shares there are, of any class.
  var count: Int {
    var n = 1
    while n < limit, nvm_load_acquire(tables + n * 8) != 0 { n += 1 }
    return n
  }
  /// The shares of a class, from the calling thread's on.
  func all(_ index: Int) -> Shares {
    let count = count
    return Shares(shares: self, index: index, number: own(index).pointee.number, left: count, count: count)
  }
  struct Shares: Sequence, IteratorProtocol {
    let shares: ClassShares
    let index: Int
    var number: Int
    var left: Int
    let count: Int
    mutating func next() -> Share? {
      if left == 0 { return nil }
      left -= 1
      defer { number = number + 1 == count ? 0 : number + 1 }
      return shares.share(shares.table(number).unsafelyUnwrapped, index)
    }
  }

  /// Bytes that rest in all of them. O(classes × shares).
  var restingBytes: Int {
    var bytes = 0
    for number in 0..<count {
      let table = table(number).unsafelyUnwrapped
      for index in 0..<classCount {
        let c = share(table, index)
        bytes &+= c.pointee.restingCount &* c.pointee.blockBytes
      }
    }
    return bytes
  }

  @inline(__always)
  static func lock<T>(of share: UnsafeMutablePointer<T>) -> SpinLock {
    SpinLock(UnsafeMutableRawPointer(share) - 64)
  }

  // MARK: Large objects

  /// The shares of the large objects.
  func allObjects() -> some Sequence<UnsafeMutablePointer<ObjectShare>> {
    (0..<count).lazy.map { objects(table($0).unsafelyUnwrapped) }
  }
  func sumOfObjects(_ word: (ObjectShare.Words) -> Int) -> Int {
    allObjects().reduce(0) { $0 &+ word($1.pointee.words) }
  }

  // MARK: Their number

  /// Twice as many shares of a class, as far as the limit. Any thread, with no lock held.
  func widen(_ index: Int) {
    let mask = nvm_load_acquire(masks + index &* 8)
    let wider = mask << 1 | 1
    guard wider < UInt64(limit) else { return }
    for number in 0...Int(wider) where table(number) == nil { makeTable(number) }
    _ = nvm_compare_exchange(masks + index &* 8, mask, wider)
  }
  /// All threads go to the first share again.
  func narrow(_ index: Int) { nvm_store_release(masks + index &* 8, 0) }

  private func makeTable(_ number: Int) {
    let size = classCount * Self.stride + 64 + MemoryLayout<ObjectShare>.stride
    let table = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 64)
    table.initializeMemory(as: UInt8.self, repeating: 0, count: size)
    for index in 0..<classCount {
      share(table, index).initialize(
        to: SizeClass(index: index, number: number, published: table + (index * Self.stride + 8)))
    }
    objects(table).initialize(to: ObjectShare(words: .init(table + (classCount * Self.stride + 8))))
    // Another thread may have been first.
    if !nvm_compare_exchange(tables + number * 8, 0, UInt64(UInt(bitPattern: table))) { deallocate(table) }
  }
}
