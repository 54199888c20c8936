import CNVM
import Glibc

// A private mapping of a file has small pages only, and each access to a random place of a large store pays for a walk
// through the page tables. So windows of 2 MiB that are read at random are moved into anonymous memory of large pages,
// while all that is private stays within half of what it may be:
//
//     enlarge   a large page elsewhere := the window's bytes     mremap: the page takes the window's place
//     shrink    the file mapped privately elsewhere,
//               pages not home yet copied into it                mremap: the mapping takes the window's place
//
// Writers of the window are held off meanwhile, as when small pages are dropped; readers are not. They find one mapping
// or the other, with equal bytes: whoever faults in between waits for the kernel's lock on the address space, and where
// the kernel fails half-way, in the handler of faults until it has succeeded (moving.c). Neither has anything to do with
// what a crash leaves, which is the journal and the file.
//
// In a window everything is private, so all its pages count as such, and dropping one would leave zeroes: they go
// back together. Once the limit was reached, or more is wished for than it allows, no more windows are made.
extension PrivatePages {
  static let windowSize = 2 << 20
  private static let windowPages = windowSize / pageSize
  /// Each may cost the process two mappings, of 65,530.
  private static let mostWindows = 8192

  /// How many there are.
  var windowCount: Int { Int(truncatingIfNeeded: nvm_load_relaxed(words + 136)) }
  private var windowLimit: Int { min(limit / 2 / Self.windowPages, Self.mostWindows) }
  var makesWindows: Bool { nvm_load_relaxed(words + 144) == 0 }
  func stopMakingWindows() { nvm_store_relaxed(words + 144, 1) }

  /// Whether a page lies in a large one. For the dropper.
  func isInLargePage(_ page: Int) -> Bool {
    let window = page / Self.windowPages
    return window < isLarge.count && isLarge[window]
  }

  // MARK: Wishes

  /// With the journal's mutex: asks for large pages under ranges of bytes, widened to whole windows within `payload`.
  /// If there are too many altogether, nothing is done from here on. True where there is something to do.
  func wish(for ranges: [Range<Int>], within payload: Range<Int>) -> Bool {
    guard makesWindows else { return false }
    let least = (payload.lowerBound + Self.windowSize - 1) / Self.windowSize
    let end = payload.upperBound / Self.windowSize
    for range in ranges where !range.isEmpty {
      let first = max(least, range.lowerBound / Self.windowSize)
      let last = min(end, (range.upperBound + Self.windowSize - 1) / Self.windowSize)
      if first < last { wishes.add(first..<last) }
    }
    if wishes.count > windowLimit {
      wishes.open = []
      stopMakingWindows()
    }
    return !wishes.open.isEmpty
  }

  // MARK: The dropper

  /// Moves a window into a large page. Where the system has none, no more are tried; the window stays as it is.
  /// - Returns: whether it was moved; then ``noteWindow(_:)`` is to follow.
  func enlarge(_ window: Int, _ base: UnsafeMutableRawPointer) -> Bool {
    guard makesWindows, !isInLargePage(window * Self.windowPages) else { return false }
    guard privateCount + Self.windowPages <= limit / 2 + limit / 4, nvm_prepare_moving() == 0,
      let page = SystemCall.largePage(Self.windowSize)
    else {
      stopMakingWindows()
      return false
    }
    var isMoved = false
    defer { if !isMoved { munmap(page, Self.windowSize) } }
    let target = base + window * Self.windowSize
    // What is not in memory is read before writers are held off. A file that cannot be read is no business of ours.
    let populate: Int32 = 22  // MADV_POPULATE_READ, Linux 5.14
    guard madvise(target, Self.windowSize, populate) == 0 else {
      stopMakingWindows()
      return false
    }
    let pages = window * Self.windowPages..<(window + 1) * Self.windowPages
    holdingOffWriters(pages) {
      page.copyMemory(from: target, byteCount: Self.windowSize)
      guard SystemCall.move(page, Self.windowSize, to: target) == 0 else { return stopMakingWindows() }
      isMoved = true
      if isLarge.count <= window {
        isLarge += [Bool](repeating: false, count: window + 1 - isLarge.count)
      }
      isLarge[window] = true
      _ = nvm_fetch_add_relaxed(words + 136, 1)
    }
    return isMoved
  }

  /// With the journal's mutex: all pages of a window that was moved are private.
  func noteWindow(_ window: Int) {
    for page in window * Self.windowPages..<(window + 1) * Self.windowPages {
      guard nvm_load_relaxed(position(page)) == 0 else { continue }
      nvm_store_release(position(page), 1)
      _ = nvm_fetch_add_relaxed(words + 128, 1)
    }
  }

  /// Gives windows back until well below the limit.
  func giveBackWindows(
    _ base: UnsafeMutableRawPointer, size: Int, home: UInt64, file: any JournalFile,
    locked: (() -> Void) -> Void
  ) {
    stopMakingWindows()
    guard windowCount > 0 else { return }
    let buffer = UnsafeMutableRawBufferPointer.allocate(
      byteCount: Self.windowSize, alignment: Self.pageSize)
    defer { buffer.deallocate() }
    for window in isLarge.indices where isLarge[window] {
      if isWellBelowLimit { return }
      guard file.read(buffer, at: window * Self.windowSize) == 0,
        let small = file.mapPrivately(at: window * Self.windowSize, count: Self.windowSize)
      else { return }
      // As the mapping that it becomes a part of.
      if PersistentRegion.isLargeFile(size) { madvise(small, Self.windowSize, MADV_RANDOM) }
      // Else it is a part of the region now.
      if !shrink(window, base, buffer, to: small, home, locked) { munmap(small, Self.windowSize) }
    }
  }

  /// - Parameter file: the bytes that the file has, `small`: a private mapping of it.
  /// - Returns: whether `small` stands in the window's place.
  private func shrink(
    _ window: Int, _ base: UnsafeMutableRawPointer, _ file: UnsafeMutableRawBufferPointer,
    to small: UnsafeMutableRawPointer, _ home: UInt64, _ locked: (() -> Void) -> Void
  ) -> Bool {
    var isMoved = false
    let target = base + window * Self.windowSize
    let pages = window * Self.windowPages..<(window + 1) * Self.windowPages
    // The positions of those that are the file's from here on, else 0.
    var given = [UInt64](repeating: 0, count: Self.windowPages)
    holdingOffWriters(pages) {
      for i in 0..<Self.windowPages {
        let at = i * Self.pageSize
        let last = nvm_load_acquire(position(pages.lowerBound + i))
        if last <= home, memcmp(target + at, file.baseAddress! + at, Self.pageSize) == 0 { given[i] = last }
        if given[i] == 0 { (small + at).copyMemory(from: target + at, byteCount: Self.pageSize) }
      }
      guard SystemCall.move(small, Self.windowSize, to: target) == 0 else { return }
      isMoved = true
      isLarge[window] = false
      _ = nvm_fetch_add_relaxed(words + 136, 0 &- 1)
    }
    guard isMoved else { return false }
    locked {
      for i in 0..<Self.windowPages where given[i] != 0 { didGiveBack(pages.lowerBound + i, given[i]) }
    }
    return true
  }
}

/// Windows that large pages were asked for.
struct WindowWishes {
  private var known: Set<Int> = []
  /// Those that nobody has looked at yet, as a stack.
  var open: [Int] = []
  var count: Int { known.count }

  mutating func add(_ windows: Range<Int>) {
    for window in windows where known.insert(window).inserted { open.append(window) }
  }
}
