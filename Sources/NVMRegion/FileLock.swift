import Glibc

/// One writer or several readers, by an open-file-description lock on the whole file: it excludes other
/// handles of the same process too, and vanishes with the descriptor, however the process ends.
enum FileLock {
  static func acquire(_ fd: Int32, exclusive: Bool, path: String) throws(NVMError) {
    let result = SystemCall.lock(fd, exclusive: exclusive)
    guard result < 0 else { return }
    guard result == -EAGAIN || result == -EACCES else {
      throw NVMError(code: .system, message: "The file cannot be locked.", path: path, errno: -result)
    }
    let holder =
      if let pid = holder(of: fd) {
        pid == getpid() ? "by another handle of this process" : "by process \(pid)"
      } else {
        "by another process"
      }
    throw NVMError(
      code: .locked,
      message: "The file is in use \(holder). Close it there first"
        + (exclusive ? "; while it is open for reading elsewhere it cannot be written." : "."),
      path: path)
  }

  /// A process that has the file of `fd` open otherwise than by `fd`, as far as /proc shows it. The kernel does
  /// not tell who holds such a lock.
  private static func holder(of fd: Int32) -> Int32? {
    var wanted = stat()
    guard fstat(fd, &wanted) == 0 else { return nil }
    let own = getpid()
    var candidate: Int32?
    forEachEntry(of: "/proc") { name in
      guard candidate == nil, let pid = Int32(name) else { return }
      forEachEntry(of: "/proc/\(pid)/fd") { entry in
        guard candidate == nil, !(pid == own && Int32(entry) == fd) else { return }
        var found = stat()
        if fileStatus("/proc/\(pid)/fd/\(entry)", &found) == 0, found.st_dev == wanted.st_dev,
          found.st_ino == wanted.st_ino
        {
          candidate = pid
        }
      }
    }
    return candidate
  }

  private static func forEachEntry(of path: String, _ body: (String) -> Void) {
    guard let directory = opendir(path) else { return }
    defer { closedir(directory) }
    while let entry = readdir(directory) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
      }
      if name.first != "." { body(name) }
    }
  }
}

/// stat(2), whose name is a type as well.
func fileStatus(_ path: String, _ result: inout stat) -> Int32 { stat(path, &result) }
