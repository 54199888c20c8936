import CNVM
import Glibc

/// How much memory the process may have.
enum MemoryLimit {
  /// Bytes: of the machine, or of the least of the control groups around the process where that has less.
  static var ofProcess: Int {
    let machine = max(1, sysconf(Int32(_SC_PHYS_PAGES))) * max(4096, sysconf(Int32(_SC_PAGESIZE)))
    return groupFiles(text("/proc/self/cgroup")).reduce(machine) { least, path in
      // "max" is no number.
      Int(text(path).prefix { $0.isNumber }).map { min(least, $0) } ?? least
    }
  }

  /// The files that hold limits, for what /proc/self/cgroup says: of the process's group and of all above it. In a
  /// container the group's own directory may stand at the top.
  static func groupFiles(_ groups: String) -> [String] {
    var files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
    for line in groups.split(separator: "\n") {
      let parts = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
      guard parts.count == 3 else { continue }
      let isSecond = parts[1].isEmpty
      guard isSecond || parts[1].split(separator: ",").contains("memory") else { continue }
      var path = isSecond ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory"
      for name in parts[2].split(separator: "/") {
        path += "/" + name
        files.append(path + (isSecond ? "/memory.max" : "/memory.limit_in_bytes"))
      }
    }
    return files
  }

  /// The first bytes of a small file; nothing where it cannot be read.
  private static func text(_ path: String) -> String {
    let fd = nvm_open(path, O_RDONLY, 0)
    guard fd >= 0 else { return "" }
    defer { close(fd) }
    var bytes = [UInt8](repeating: 0, count: 4096)
    let n = read(fd, &bytes, bytes.count)
    return String(decoding: bytes.prefix(max(0, n)), as: UTF8.self)
  }
}
