import CNVM
import Glibc

/// Words on their way home: those of some batches, in their order, brought together page by page.
///
/// A page is written once, whatever number of records name it, and pages that follow each other go in one write. The
/// rest of a page is as the file has it: never as the mapping has it, whose stores no journal may cover yet.
struct JournalPages {
  static let pageWords = 512
  private struct Fragment {
    var page: UInt64
    var source: UInt32
    var place: UInt16
    var count: UInt16
  }
  private var fragments: [Fragment] = []
  private var store: UnsafeMutableRawPointer
  private var capacity: Int
  private(set) var count = 0
  /// The pages written by `writeHome`, as ranges in ascending order.
  private(set) var written: [Range<Int>] = []

  /// As many bytes of records as are brought together at most, and as many again to sort them: a small part of the
  /// memory that the process may have.
  static let windowSize = min(32 << 20, max(1 << 20, MemoryLimit.ofProcess / 64))

  private static let mostFragments = windowSize / MemoryLayout<Fragment>.stride

  init() {
    // Only what is written to is memory.
    capacity = Self.windowSize
    store = .allocate(byteCount: capacity, alignment: 16)
    fragments.reserveCapacity(Self.mostFragments)
  }
  func deallocate() { store.deallocate() }

  var isEmpty: Bool { fragments.isEmpty }

  mutating func removeAll() {
    fragments.removeAll(keepingCapacity: true)
    written.removeAll()
    count = 0
  }

  /// Takes the records of a batch in. False where they do not fit together.
  mutating func add(_ records: UnsafeRawBufferPointer, allowed: Range<Int>) -> Bool {
    if count + records.count > capacity {
      let larger = max(2 * capacity, count + records.count)
      let new = UnsafeMutableRawPointer.allocate(byteCount: larger, alignment: 16)
      new.copyMemory(from: store, byteCount: count)
      store.deallocate()
      (store, capacity) = (new, larger)
    }
    (store + count).copyMemory(from: records.baseAddress!, byteCount: records.count)
    var iterator = JournalRecords(
      UnsafeRawBufferPointer(start: store + count, count: records.count), allowed: allowed)
    while let (place, words, source) = iterator.next() {
      var place = place
      var left = words
      var from = source - UnsafeRawPointer(store)
      while left > 0 {
        let page = place / Self.pageWords
        let n = min(left, (page + 1) * Self.pageWords - place)
        fragments.append(
          Fragment(
            page: UInt64(page), source: UInt32(from), place: UInt16(place % Self.pageWords),
            count: UInt16(n)))
        place += n
        left -= n
        from += n * 8
      }
    }
    count += records.count
    return iterator.isSound
  }

  /// Whether more may be taken in before the pages are written. (One batch always fits.)
  func hasRoom(for count: Int) -> Bool {
    self.count + count <= Self.windowSize && fragments.count < Self.mostFragments
  }

  /// Puts the words of some fragments into their pages, which start with `first`.
  private func apply(_ range: Range<Int>, to pages: UnsafeMutableRawPointer, _ first: Int) {
    let pageSize = Self.pageWords * 8
    fragments.withUnsafeBufferPointer { fragments in
      for i in range {
        // Sorted by page, they stand anywhere in the records.
        if i &+ 16 < fragments.count { nvm_prefetch(store + Int(fragments[i &+ 16].source)) }
        let f = fragments[i]
        let page = Int(truncatingIfNeeded: f.page) &- first
        let to = pages + (page &* pageSize &+ Int(f.place) &* 8)
        let from = store + Int(f.source)
        // Nearly all are of a word or two.
        if f.count <= 4 {
          for word in 0..<Int(f.count) {
            let value = from.loadUnaligned(fromByteOffset: word &* 8, as: UInt64.self)
            to.storeBytes(of: value, toByteOffset: word &* 8, as: UInt64.self)
          }
        } else {
          to.copyMemory(from: from, byteCount: Int(f.count) &* 8)
        }
      }
    }
  }

  /// Writes every page, and forgets what it held but for ``written``. Not durable before a sync.
  /// - Parameter pause: called after each run of pages, with its place and size.
  mutating func writeHome(
    to file: any JournalFile, _ pause: (_ offset: Int, _ count: Int) -> Void = { _, _ in }
  ) -> Int32 {
    // Those of one page stay in their order.
    fragments.sortByDigits { $0.page }
    let longest = 64
    let pageSize = Self.pageWords * 8
    let run = UnsafeMutableRawBufferPointer.allocate(byteCount: longest * pageSize, alignment: pageSize)
    defer { run.deallocate() }
    var i = 0
    while i < fragments.count {
      let first = Int(fragments[i].page)
      var end = first + 1
      var j = i
      while j < fragments.count {
        let page = Int(fragments[j].page)
        if page > end || page - first >= longest { break }
        end = page + 1
        j += 1
      }
      let bytes = UnsafeMutableRawBufferPointer(rebasing: run[..<((end - first) * pageSize)])
      var result = file.read(bytes, at: first * pageSize)
      if result < 0 { return result }
      apply(i..<j, to: bytes.baseAddress!, first)
      i = j
      result = file.write(UnsafeRawBufferPointer(bytes), at: first * pageSize)
      if result < 0 { return result }
      if let last = written.last, last.upperBound == first {
        written[written.count - 1] = last.lowerBound..<end
      } else {
        written.append(first..<end)
      }
      pause(first * pageSize, bytes.count)
    }
    fragments.removeAll(keepingCapacity: true)
    count = 0
    return 0
  }
}
