import Foundation

/// Bytes that went to disks, read twice and subtracted.
struct DiskWrites {
  /// Of this process: pages that it made the kernel write, by its own count (`write_bytes` of /proc/self/io). Changes to
  /// the file system's own blocks are not in it.
  var process: Double
  /// Of the whole device that a directory lies on, everybody's: to be believed on a device of one's own. `nil` where
  /// there is none.
  var device: Double?

  init(below directory: String) {
    let io = (try? String(contentsOfFile: "/proc/self/io", encoding: .utf8)) ?? ""
    process =
      io.split(separator: "\n").first { $0.hasPrefix("write_bytes:") }
      .flatMap { Double($0.split(separator: " ")[1]) } ?? 0
    var s = stat()
    guard stat(directory, &s) == 0 else { return }
    // As the C library's major() and minor() take it apart.
    let major = (s.st_dev >> 8) & 0xFFF
    let minor = (s.st_dev & 0xFF) | ((s.st_dev >> 12) & 0xFFF00)
    let text = try? String(contentsOfFile: "/sys/dev/block/\(major):\(minor)/stat", encoding: .utf8)
    let fields = text?.split(whereSeparator: \.isWhitespace) ?? []
    // The seventh: sectors written, of 512 bytes.
    if fields.count > 6 { device = Double(fields[6]).map { $0 * 512 } }
  }

  static func - (a: Self, b: Self) -> Self {
    var r = a
    r.process -= b.process
    if let x = a.device, let y = b.device { r.device = x - y }
    return r
  }
}
