import CLibpmem
import CNVM
import Glibc
import Synchronization

/// Every system call of the package goes through here, so that tests can make the n-th one fail.
package enum SystemCall: String, CaseIterable, Sendable {
  case open, lock, allocate, map, sync, msync, link, stat, read, write, truncate, reserve, directorySync,
    dataSync, move, moveMidway

  /// A planned failure: the `skip`-th following call of a kind (all kinds where `nil`) returns `errno`.
  package struct Fault: Sendable {
    package var call: SystemCall?
    package var skip: Int
    package var errno: Int32
    package init(call: SystemCall?, skip: Int, errno: Int32) {
      (self.call, self.skip, self.errno) = (call, skip, errno)
    }
  }
  private static let planned = Lock<Fault?>(nil)
  private static let isPlanned = Atomic<Bool>(false)

  /// Runs `body` with a failure planned. Returns whether the failure happened.
  package static func withFault<E: Error>(_ fault: Fault, _ body: () throws(E) -> Void) throws(E) -> Bool {
    planned.withLock { $0 = fault }
    isPlanned.store(true, ordering: .releasing)
    defer {
      isPlanned.store(false, ordering: .releasing)
      planned.withLock { $0 = nil }
    }
    try body()
    return planned.withLock { $0 == nil }
  }

  /// The planned error for this call, if it is its turn.
  private func injected() -> Int32? {
    guard Self.isPlanned.load(ordering: .acquiring) else { return nil }
    return Self.planned.withLock { fault -> Int32? in
      guard var f = fault, f.call == nil || f.call == self else { return nil }
      if f.skip > 0 {
        f.skip -= 1
        fault = f
        return nil
      }
      fault = nil
      return f.errno
    }
  }

  /// 0 or -errno.
  private func run(_ body: () -> Int32) -> Int32 {
    if let e = injected() { return -e }
    return body()
  }

  // The calls. Each returns a non-negative result or -errno.

  static func open(_ path: String, _ flags: Int32, _ mode: UInt32 = 0) -> Int32 {
    SystemCall.open.run { nvm_open(path, flags, mode) }
  }
  static func openUnnamed(_ directory: String, _ mode: UInt32) -> Int32 {
    SystemCall.open.run { nvm_open_unnamed(directory, mode) }
  }
  static func link(_ fd: Int32, _ path: String) -> Int32 {
    SystemCall.link.run { nvm_link_unnamed(fd, path) }
  }
  static func link(_ old: String, _ new: String) -> Int32 {
    SystemCall.link.run { Glibc.link(old, new) == 0 ? 0 : -errno }
  }
  static func lock(_ fd: Int32, exclusive: Bool) -> Int32 {
    SystemCall.lock.run { nvm_lock_file(fd, exclusive ? 1 : 0) }
  }
  static func allocate(_ fd: Int32, _ offset: Int, _ count: Int) -> Int32 {
    SystemCall.allocate.run {
      // Growing past RLIMIT_FSIZE would raise SIGXFSZ: refuse instead.
      var limit = rlimit()
      if getrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit) == 0, limit.rlim_cur != rlim_t.max,
        UInt64(offset + count) > limit.rlim_cur
      {
        return -EFBIG
      }
      return nvm_allocate(fd, UInt64(offset), UInt64(count))
    }
  }
  static func fillHoles(_ fd: Int32, _ count: Int) -> Int32 {
    SystemCall.allocate.run { nvm_fill_holes(fd, UInt64(count)) }
  }
  static func truncate(_ fd: Int32, _ size: Int) -> Int32 {
    SystemCall.truncate.run { ftruncate(fd, size) == 0 ? 0 : -errno }
  }
  static func sync(_ fd: Int32) -> Int32 {
    SystemCall.sync.run { fsync(fd) == 0 ? 0 : -errno }
  }
  /// Makes the entries of a directory durable.
  static func syncDirectory(_ path: String) -> Int32 {
    SystemCall.directorySync.run {
      let fd = nvm_open(path, O_RDONLY | O_DIRECTORY, 0)
      guard fd >= 0 else { return fd }
      defer { close(fd) }
      // Some file systems cannot sync directories and say EINVAL.
      return fsync(fd) == 0 || errno == EINVAL ? 0 : -errno
    }
  }
  static func stat(_ fd: Int32, _ result: inout Glibc.stat) -> Int32 {
    SystemCall.stat.run { fstat(fd, &result) == 0 ? 0 : -errno }
  }
  /// Reads until `buffer` is full or the file ends; returns the number of bytes.
  static func read(_ fd: Int32, _ buffer: UnsafeMutableRawBufferPointer, at offset: Int) -> Int {
    if let e = SystemCall.read.injected() { return -Int(e) }
    var done = 0
    while done < buffer.count {
      let n = pread(fd, buffer.baseAddress! + done, buffer.count - done, offset + done)
      if n == 0 { break }
      if n < 0 {
        if errno == EINTR { continue }
        return -Int(errno)
      }
      done += n
    }
    return done
  }
  static func write(_ fd: Int32, _ bytes: UnsafeRawBufferPointer, at offset: Int) -> Int32 {
    SystemCall.write.run { nvm_write(fd, bytes.baseAddress!, bytes.count, UInt64(offset)) }
  }
  /// Writes, and makes durable what it wrote and nothing else.
  static func writeDurably(_ fd: Int32, _ bytes: UnsafeRawBufferPointer, at offset: Int) -> Int32 {
    SystemCall.dataSync.run { nvm_write_durably(fd, bytes.baseAddress!, bytes.count, UInt64(offset)) }
  }
  static func syncData(_ fd: Int32) -> Int32 {
    SystemCall.dataSync.run { fdatasync(fd) == 0 ? 0 : -errno }
  }
  static func msync(_ address: UnsafeMutableRawPointer, _ count: Int) -> Int32 {
    SystemCall.msync.run { pmem_msync(address, count) == 0 ? 0 : -errno }
  }
  /// Reserves address space without memory; `nil` where the process may not.
  static func reserve(_ count: Int) -> UnsafeMutableRawPointer? {
    if SystemCall.reserve.injected() != nil { return nil }
    let p = mmap(nil, count, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    return p == MAP_FAILED ? nil : p
  }
  /// Replaces what is mapped by empty private memory.
  static func mapOver(_ at: UnsafeMutableRawPointer, _ count: Int, _ protection: Int32) -> Int32 {
    SystemCall.map.run {
      mmap(at, count, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0)
        == MAP_FAILED
        ? -errno : 0
    }
  }
  static func mapSync(_ at: UnsafeMutableRawPointer, _ count: Int, _ fd: Int32, _ offset: Int) -> Int32 {
    SystemCall.map.run { nvm_map_fixed_sync(at, count, fd, UInt64(offset)) }
  }
  /// A private mapping of a file, wherever there is room; `nil` where it cannot be had.
  static func mapPrivately(_ fd: Int32, _ offset: Int, _ count: Int) -> UnsafeMutableRawPointer? {
    if SystemCall.map.injected() != nil { return nil }
    let p = mmap(nil, count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, offset)
    return p == MAP_FAILED ? nil : p
  }
  /// An anonymous large page, in memory already; `nil` where the system gives none.
  static func largePage(_ size: Int) -> UnsafeMutableRawPointer? {
    if SystemCall.map.injected() != nil { return nil }
    return nvm_map_large_page(size)
  }
  /// Puts a mapping in the place of another. 0 or -errno: nothing was done. Other threads that touch the place meanwhile
  /// wait, also where the kernel fails half-way (`moveMidway`) and has to be asked again.
  static func move(_ from: UnsafeMutableRawPointer, _ count: Int, to: UnsafeMutableRawPointer) -> Int32 {
    SystemCall.move.run {
      nvm_move_mapping(from, count, to, SystemCall.moveMidway.injected() == nil ? 0 : 3)
    }
  }
  static func map(_ at: UnsafeMutableRawPointer, _ count: Int, flags: Int32, _ fd: Int32, _ offset: Int)
    -> Int32
  {
    SystemCall.map.run {
      mmap(at, count, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, offset) == MAP_FAILED ? -errno : 0
    }
  }
}

/// The system's words for an error number.
func systemMessage(_ error: Int32) -> String {
  withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) { buffer in
    // The XSI form returns 0 and the GNU form a pointer; Glibc imports the XSI one.
    guard strerror_r(error, buffer.baseAddress!, 256) == 0 else { return "error \(error)" }
    return String(cString: buffer.baseAddress!)
  }
}

/// The directory part of a path, as dirname(3) sees it.
func directory(of path: String) -> String {
  guard let slash = path.lastIndex(of: "/") else { return "." }
  return slash == path.startIndex ? "/" : String(path[..<slash])
}

/// A path from the root on. As it is where the working directory is gone.
func absolutePath(_ path: String) -> String {
  guard path.first != "/", let here = getcwd(nil, 0) else { return path }
  defer { free(here) }
  return String(cString: here) + "/" + path
}
