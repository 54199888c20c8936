import Glibc

/// Reads a file or standard input line by line.
final class LineReader {
  private let descriptor: Int32
  private var buffer: [UInt8] = []
  private var at = 0
  private var isAtEnd = false
  let path: String
  /// Bytes in the file; nil for a pipe.
  private(set) var size: Int?
  /// Bytes handed out.
  private(set) var position = 0
  private(set) var lineNumber = 0
  /// What the last line ended with: a newline, perhaps with a return before it; nothing at the end of the input.
  private(set) var lineEnd = ""

  /// - Parameter path: "-" for standard input.
  init(_ path: String) throws {
    self.path = path == "-" ? "standard input" : path
    descriptor = path == "-" ? 0 : open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else {
      throw ToolError(
        errno == ENOENT ? .notFound : .failure,
        "\(path): The file cannot be read. [\(String(cString: strerror(errno)))]")
    }
    var info = stat()
    if fstat(descriptor, &info) == 0, info.st_mode & S_IFMT == S_IFREG { size = Int(info.st_size) }
  }
  deinit { if descriptor > 0 { close(descriptor) } }

  /// Share of the file that was read; nil for a pipe.
  var share: Double? { size.map { $0 == 0 ? 1 : Double(position) / Double($0) } }

  /// The next line without its end; nil when there are no more.
  func next() throws -> String? {
    while true {
      if let end = buffer[at...].firstIndex(of: 10) {
        defer {
          position += end + 1 - at
          at = end + 1
        }
        return try text(buffer[at..<end], isEnded: true)
      }
      if isAtEnd {
        guard at < buffer.count else { return nil }
        defer {
          position += buffer.count - at
          at = buffer.count
        }
        return try text(buffer[at...], isEnded: false)
      }
      try fill()
    }
  }

  private func fill() throws {
    buffer.removeSubrange(..<at)
    at = 0
    let old = buffer.count
    let chunk = 1 << 16
    buffer.append(contentsOf: repeatElement(0, count: chunk))
    let n = buffer.withUnsafeMutableBytes { raw in
      var n = 0
      repeat { n = read(descriptor, raw.baseAddress! + old, chunk) } while n < 0 && errno == EINTR
      return n
    }
    guard n >= 0 else {
      throw ToolError(.failure, "\(path): Reading failed. [\(String(cString: strerror(errno)))]")
    }
    buffer.removeSubrange((old + n)...)
    if n == 0 { isAtEnd = true }
  }

  private func text(_ bytes: ArraySlice<UInt8>, isEnded: Bool) throws -> String {
    lineNumber += 1
    var bytes = bytes
    lineEnd = isEnded ? "\n" : ""
    if isEnded, bytes.last == 13 {
      bytes = bytes.dropLast()
      lineEnd = "\r\n"
    }
    guard let text = String(validating: bytes, as: UTF8.self) else {
      throw ToolError(.failure, "\(path), line \(lineNumber): This is not UTF-8 text.")
    }
    return text
  }
}
