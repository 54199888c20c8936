import CNVMCut
import Glibc

func writeFile(_ path: String, _ text: String) -> Bool {
  guard let file = fopen(path, "w") else { return false }
  let written = fputs(text, file) >= 0
  return fclose(file) == 0 && written
}

func readFile(_ path: String) -> String? {
  let fd = Glibc.open(path, O_RDONLY)
  guard fd >= 0 else { return nil }
  defer { close(fd) }
  var bytes: [UInt8] = []
  var buffer = [UInt8](repeating: 0, count: 1 << 16)
  while true {
    let n = read(fd, &buffer, buffer.count)
    if n <= 0 { return n == 0 ? String(decoding: bytes, as: UTF8.self) : nil }
    bytes += buffer[..<n]
  }
}

/// Copies a file's content without leaving it in large folios of the page cache.
func copyFile(_ from: String, _ to: String) -> Bool {
  let source = Glibc.open(from, O_RDONLY)
  guard source >= 0 else { return false }
  defer { close(source) }
  nvm_cut_forget_pages(source)
  let target = Glibc.open(to, O_WRONLY | O_CREAT | O_TRUNC, 0o644)
  guard target >= 0 else { return false }
  var buffer = [UInt8](repeating: 0, count: 1 << 18)
  var isWhole = true
  while isWhole {
    let n = read(source, &buffer, buffer.count)
    if n <= 0 {
      isWhole = n == 0
      break
    }
    isWhole = write(target, buffer, n) == n
  }
  nvm_cut_forget_pages(source)
  return close(target) == 0 && isWhole
}

/// Removes a file so that no cut brings it back.
func removeDurably(_ path: String) {
  guard unlink(path) == 0 else { return }
  let fd = Glibc.open(directory(of: path), O_RDONLY | O_DIRECTORY)
  guard fd >= 0 else { return }
  fsync(fd)
  close(fd)
}

private func directory(of path: String) -> String {
  path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "."
}

/// Makes a directory and those above it.
func makeDirectories(_ path: String) {
  var made = ""
  for part in path.split(separator: "/", omittingEmptySubsequences: false) {
    made += made.isEmpty && part.isEmpty ? "/" : (made.isEmpty || made.hasSuffix("/") ? "" : "/") + part
    if made != "/" { mkdir(made, 0o755) }
  }
}

/// The names in a directory, but for those of the file system itself.
func names(in directory: String) -> [String] {
  guard let stream = opendir(directory) else { return [] }
  defer { closedir(stream) }
  var result: [String] = []
  while let entry = readdir(stream) {
    let name = withUnsafePointer(to: &entry.pointee.d_name) {
      $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
    }
    if name != ".", name != "..", name != "lost+found" { result.append(name) }
  }
  return result.sorted()
}

func seconds(since begin: ContinuousClock.Instant) -> Double {
  (((ContinuousClock.now - begin) / .seconds(1)) * 10).rounded() / 10
}
