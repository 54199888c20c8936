import CNVM
import Glibc

/// The pages of the mapping that hold what the file does not have in its place yet, and how they are given back.
///
/// A page may go when its last change is home, nobody is storing to it, and its bytes are those of the file: then the
/// file's own page takes its place, and no reader sees a difference. (So a store that was never flushed keeps its page.)
///
///     writer    announces the page … looks whether it is being dropped … stores … takes the announcement back
///     dropper   says which pages … barrier of all threads … waits for the announcements of these … compares, drops
///
/// The barrier is the dropper's alone: a writer pays two plain stores. Whichever comes first, one of both sees the other.
/// Dropping is done by one thread at a time, the one that brings changes home.
/// Windows of large pages (PrivatePages+LargePages) are private as a whole.
final class PrivatePages: @unchecked Sendable {
  static let pageSize = 4096
  private static let chunk = 64
  /// For each page the journal position before which its last change lies; 0 for a page of the file's. A page that is
  /// private and has had no change is at 1, before which nothing lies.
  private let positions: UnsafeMutableRawPointer
  private let count: Int
  /// A line for each thread slot: 0 the first page announced + 1, 8 the last one.
  private let slots: UnsafeMutableRawPointer
  /// 0 the pages that are being dropped, as `span` has them, 64 how many stores of threads without a slot of their own
  /// are under way, 128 the number of private pages, 136 of windows of large pages, 144 whether no more of them are made.
  let words: UnsafeMutableRawPointer
  let limit: Int
  /// Where the next round begins.
  @exclusivity(unchecked) private var next = 0
  /// Guarded by the journal's mutex.
  @exclusivity(unchecked) var wishes = WindowWishes()
  /// For each window of 2 MiB whether it lies in a large page. For the dropper alone.
  @exclusivity(unchecked) var isLarge: [Bool] = []

  /// `nil` where the system has no such barrier, no room for the table, or pages of another size (to drop a part of one
  /// drops all of it), or the limit is the largest number: then pages stay.
  init?(capacity: Int, limit: Int?) {
    guard limit != .max, sysconf(Int32(_SC_PAGESIZE)) == Self.pageSize, nvm_barrier_of_all_threads() == 0
    else { return nil }
    count = capacity / Self.pageSize + 1
    let table = mmap(
      nil, count * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    guard let table, table != MAP_FAILED else { return nil }
    positions = table
    self.limit = limit ?? MemoryLimit.ofProcess / Self.pageSize / 4
    let size = Int(NVM_THREAD_SLOTS) * 64
    slots = .allocate(byteCount: size, alignment: 64)
    slots.initializeMemory(as: UInt8.self, repeating: 0, count: size)
    words = .allocate(byteCount: 192, alignment: 64)
    words.initializeMemory(as: UInt8.self, repeating: 0, count: 192)
  }

  deinit {
    munmap(positions, count * 8)
    slots.deallocate()
    words.deallocate()
  }

  /// How many pages are private.
  var privateCount: Int { Int(truncatingIfNeeded: nvm_load_relaxed(words + 128)) }
  var isOverLimit: Bool { privateCount > limit }
  /// Whether writers are to wait until some were given back.
  var isFarOverLimit: Bool { privateCount > limit + limit / 2 }

  func position(_ page: Int) -> UnsafeMutableRawPointer { positions + page &* 8 }

  // MARK: Writers

  /// Announces a store to `count` bytes at `offset`. Returns what ``leave(_:)`` takes.
  @inline(__always)
  func enter(_ offset: Int, _ count: Int) -> UnsafeMutableRawPointer {
    let slot = Int(nvm_thread_slot())
    let first = offset &>> 12
    let last = (offset &+ max(count, 1) &- 1) &>> 12
    let p = slots + slot &* 64
    if slot == 0 {
      enterShared(first, last)
    } else {
      nvm_store_relaxed(p + 8, UInt64(truncatingIfNeeded: last))
      nvm_store_release(p, UInt64(truncatingIfNeeded: first &+ 1))
      nvm_compiler_fence()
      if nvm_load_relaxed(words) != 0 { enterSlowly(p, first, last) }
    }
    return p
  }

  @inline(__always)
  func leave(_ p: UnsafeMutableRawPointer) {
    if p == slots {
      _ = nvm_fetch_add_seqcst(words + 64, 0 &- 1)
    } else {
      nvm_store_release(p, 0)
    }
  }

  /// Pages in one word: the first one + 1, and from bit 40 on how many. (Of 2^52 bytes, more than are ever mapped.)
  private static func span(_ pages: Range<Int>) -> UInt64 {
    UInt64(pages.lowerBound + 1) | UInt64(pages.count) << 40
  }

  private func isDropped(_ first: Int, _ last: Int) -> Bool {
    let word = nvm_load_acquire(words)
    guard word != 0 else { return false }
    let start = Int(word & (1 << 40 - 1)) - 1
    return first < start + Int(word >> 40) && last >= start
  }

  @inline(never)
  private func enterSlowly(_ p: UnsafeMutableRawPointer, _ first: Int, _ last: Int) {
    while isDropped(first, last) {
      nvm_store_release(p, 0)
      while isDropped(first, last) { sched_yield() }
      nvm_store_seqcst(p, UInt64(first + 1))
    }
  }

  @inline(never)
  private func enterShared(_ first: Int, _ last: Int) {
    while true {
      _ = nvm_fetch_add_seqcst(words + 64, 1)
      if !isDropped(first, last) { return }
      _ = nvm_fetch_add_seqcst(words + 64, 0 &- 1)
      while isDropped(first, last) { sched_yield() }
    }
  }

  /// With the journal's mutex: the words were appended before `position`.
  @inline(__always)
  func note(_ place: Int, _ count: Int, _ position: UInt64) {
    var page = place &>> 9
    let last = (place &+ count &- 1) &>> 9
    while page <= last {
      let p = self.position(page)
      if nvm_load_relaxed(p) == 0 { _ = nvm_fetch_add_relaxed(words + 128, 1) }
      nvm_store_release(p, position)
      page &+= 1
    }
  }

  // MARK: The dropper

  /// Gives pages back whose last change lies before `home`, until well below the limit or nothing is left to try:
  /// first windows of large pages, then small ones. A failure to read the file keeps pages, and does no harm.
  /// - Parameter locked: runs its argument with the journal's mutex.
  func giveBack(
    _ base: UnsafeMutableRawPointer, size: Int, home: UInt64, file: any JournalFile,
    locked: (() -> Void) -> Void
  ) {
    guard isOverLimit else { return }
    giveBackWindows(base, size: size, home: home, file: file, locked: locked)
    let chunks = (size / Self.pageSize + Self.chunk - 1) / Self.chunk
    let buffer = UnsafeMutableRawBufferPointer.allocate(
      byteCount: Self.chunk * Self.pageSize, alignment: Self.pageSize)
    defer { buffer.deallocate() }
    for _ in 0..<chunks {
      if isWellBelowLimit { return }
      if next >= chunks { next = 0 }
      let first = next * Self.chunk
      next += 1
      let end = min(first + Self.chunk, size / Self.pageSize)
      guard !isInLargePage(first), (first..<end).contains(where: { isHome($0, home) }) else { continue }
      let bytes = UnsafeMutableRawBufferPointer(rebasing: buffer[..<((end - first) * Self.pageSize)])
      guard file.read(bytes, at: first * Self.pageSize) == 0 else { return }
      drop(first..<end, base, bytes, home, locked)
    }
  }

  var isWellBelowLimit: Bool { privateCount <= limit / 2 }

  func isHome(_ page: Int, _ home: UInt64) -> Bool {
    let last = nvm_load_acquire(position(page))
    return last != 0 && last <= home
  }

  /// With the journal's mutex, when writers are no longer held off (who holds the mutex may wait for that): the page is
  /// the file's own, unless it has been changed again. `last`: its position when it was given back.
  func didGiveBack(_ page: Int, _ last: UInt64) {
    guard nvm_load_relaxed(position(page)) == last else { return }
    nvm_store_release(position(page), 0)
    _ = nvm_fetch_add_relaxed(words + 128, 0 &- 1)
  }

  private func drop(
    _ pages: Range<Int>, _ base: UnsafeMutableRawPointer, _ bytes: UnsafeMutableRawBufferPointer,
    _ home: UInt64, _ locked: (() -> Void) -> Void
  ) {
    var dropped: [(page: Int, last: UInt64)] = []
    holdingOffWriters(pages) {
      for page in pages {
        let last = nvm_load_acquire(position(page))
        let p = base + page * Self.pageSize
        let file = bytes.baseAddress! + (page - pages.lowerBound) * Self.pageSize
        guard last != 0, last <= home, memcmp(p, file, Self.pageSize) == 0,
          madvise(p, Self.pageSize, MADV_DONTNEED) == 0
        else { continue }
        dropped.append((page, last))
      }
    }
    locked { for (page, last) in dropped { didGiveBack(page, last) } }
  }

  /// Runs `body` while nobody stores to the pages. For the dropper.
  func holdingOffWriters(_ pages: Range<Int>, _ body: () -> Void) {
    nvm_store_seqcst(words, Self.span(pages))
    defer { nvm_store_release(words, 0) }
    guard nvm_barrier_of_all_threads() == 0 else { return }
    waitForWriters(pages)
    body()
  }

  private func waitForWriters(_ pages: Range<Int>) {
    while nvm_load_seqcst(words + 64) != 0 { sched_yield() }
    for slot in 1..<Int(NVM_THREAD_SLOTS) {
      let p = slots + slot * 64
      while true {
        let first = nvm_load_acquire(p)
        if first == 0 || Int(first) - 1 >= pages.upperBound
          || Int(truncatingIfNeeded: nvm_load_acquire(p + 8)) < pages.lowerBound
        {
          break
        }
        sched_yield()
      }
    }
  }
}
