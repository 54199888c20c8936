import Glibc

/// Output of the tool: results on standard output, buffered; everything else on standard error.
enum Terminal {
  static var errorIsTerminal: Bool { isatty(2) == 1 }

  static func writeError(_ text: String) { _ = write(Array(text.utf8), to: 2) }

  /// Writes all of it.
  /// - Returns: 0, or the error number where not all could be written.
  static func write(_ bytes: [UInt8], to descriptor: Int32) -> Int32 {
    bytes.withUnsafeBytes { raw in
      var done = 0
      while done < raw.count {
        let n = Glibc.write(descriptor, raw.baseAddress! + done, raw.count - done)
        if n < 0, errno == EINTR { continue }
        guard n > 0 else { return n < 0 ? errno : EIO }
        done += n
      }
      return 0
    }
  }
}

/// Collects lines for standard output. What could not be written is an error: a dump that is cut short is no backup.
struct Output: ~Copyable {
  private var buffer: [UInt8] = []

  mutating func line(_ text: String) throws {
    buffer += text.utf8
    buffer.append(10)
    if buffer.count > 1 << 16 { try flush() }
  }
  mutating func flush() throws {
    defer { buffer.removeAll(keepingCapacity: true) }
    let error = Terminal.write(buffer, to: 1)
    guard error == 0 else {
      throw ToolError(
        .failure,
        "The output is cut short: it cannot be written. Make room or choose another place. "
          + "[\(String(cString: strerror(error)))]")
    }
  }
  deinit {
    // After another failure, which is reported.
    if !buffer.isEmpty { _ = Terminal.write(buffer, to: 1) }
  }
}
