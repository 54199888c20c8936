import Glibc

/// Output of the tool: results on standard output, buffered; everything else on standard error.
enum Terminal {
  static var errorIsTerminal: Bool { isatty(2) == 1 }

  static func writeError(_ text: String) { write(Array(text.utf8), to: 2) }

  /// Writes all of it, as far as somebody reads.
  static func write(_ bytes: [UInt8], to descriptor: Int32) {
    bytes.withUnsafeBytes { raw in
      var done = 0
      while done < raw.count {
        let n = Glibc.write(descriptor, raw.baseAddress! + done, raw.count - done)
        if n < 0, errno == EINTR { continue }
        guard n > 0 else { return }
        done += n
      }
    }
  }
}

/// Collects lines for standard output.
struct Output: ~Copyable {
  private var buffer: [UInt8] = []

  mutating func line(_ text: String) {
    buffer += text.utf8
    buffer.append(10)
    if buffer.count > 1 << 16 { flush() }
  }
  mutating func flush() {
    Terminal.write(buffer, to: 1)
    buffer.removeAll(keepingCapacity: true)
  }
  deinit {
    if !buffer.isEmpty { Terminal.write(buffer, to: 1) }
  }
}
