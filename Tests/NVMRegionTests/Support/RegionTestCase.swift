import Foundation
import NVMRegion
import XCTest

/// A test with a directory of its own on the disk and one on tmpfs, both removed afterwards, that ends with as
/// many open descriptors as it began.
class RegionTestCase: XCTestCase {
  private(set) var directory = ""
  private(set) var memoryDirectory = ""
  private var descriptors = 0
  private var mounts: [String] = []

  override func setUpWithError() throws {
    let name = "nvm-region-\(getpid())-\(UInt32.random(in: 0 ... .max))"
    directory = NSTemporaryDirectory() + "/" + name
    memoryDirectory =
      (FileManager.default.fileExists(atPath: "/dev/shm") ? "/dev/shm/" : "/tmp/") + name + "m"
    for path in [directory, memoryDirectory] {
      try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }
    descriptors = openDescriptors()
  }

  override func tearDown() {
    XCTAssertEqual(openDescriptors(), descriptors, "descriptors left open: \(descriptorTargets())")
    for mount in mounts { _ = try? runProgram("/bin/umount", [mount]) }
    for path in [directory, memoryDirectory] { try? FileManager.default.removeItem(atPath: path) }
  }

  func path(_ name: String = "r.nvm") -> String { directory + "/" + name }
  func memoryPath(_ name: String = "r.nvm") -> String { memoryDirectory + "/" + name }

  /// A path for each writable medium that this machine has.
  var everyMedium: [(path: String, options: RegionOptions)] {
    [
      (memoryPath("e.nvm"), RegionOptions(media: .emulated)),
      (path("i.nvm"), RegionOptions(media: .inPlaceFile)),
      (path("j.nvm"), RegionOptions(media: .journaledFile)),
    ]
  }

  /// A mounted tmpfs of the given size, or a skip with the reason.
  func mountTmpfs(_ options: String, name: String = "mount") throws -> String {
    let at = directory + "/" + name
    if !FileManager.default.fileExists(atPath: at) {
      try FileManager.default.createDirectory(atPath: at, withIntermediateDirectories: true)
    }
    guard getuid() == 0 else { throw XCTSkip("mounting a small tmpfs needs root") }
    let result = try runProgram("/bin/mount", ["-t", "tmpfs", "-o", options, "tmpfs", at])
    guard result.status == 0 else { throw XCTSkip("this machine permits no tmpfs mount: \(result.output)") }
    mounts.append(at)
    return at
  }

  /// A mounted ext4 of 8 MiB in a file, or a skip with the reason.
  func mountExt4() throws -> String {
    guard getuid() == 0 else { throw XCTSkip("mounting a small ext4 needs root") }
    let places = ["/sbin/mkfs.ext4", "/usr/sbin/mkfs.ext4"]
    guard let make = places.first(where: { FileManager.default.isExecutableFile(atPath: $0) }) else {
      throw XCTSkip("no mkfs.ext4 here")
    }
    let image = directory + "/ext4.image"
    let at = directory + "/ext4"
    try put([UInt8](repeating: 0, count: 8 << 20), at: image)
    try FileManager.default.createDirectory(atPath: at, withIntermediateDirectories: true)
    let made = try runProgram(make, ["-q", "-F", image])
    guard made.status == 0 else { throw XCTSkip("mkfs.ext4: \(made.output)") }
    let result = try runProgram("/bin/mount", ["-o", "loop", image, at])
    guard result.status == 0 else { throw XCTSkip("this machine permits no loop mount: \(result.output)") }
    mounts.append(at)
    return at
  }

  func remountReadOnly(_ at: String) throws {
    let result = try runProgram("/bin/mount", ["-o", "remount,ro", at])
    XCTAssertEqual(result.status, 0, result.output)
  }
}

/// How many descriptors of files, folders and devices this process has open: all that the package opens. Sockets, pipes and
/// the like are Foundation's, which closes what it watched a child with on a thread of its own, when it gets to it.
func openDescriptors() -> Int { descriptorTargets().count }

/// What they lead to, for messages.
func descriptorTargets() -> [String] {
  ((try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd")) ?? []).compactMap { name in
    var buffer = [CChar](repeating: 0, count: 512)
    let n = readlink("/proc/self/fd/" + name, &buffer, buffer.count)
    guard n > 0 else { return nil }
    let target = String(decoding: buffer[..<n].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    guard target.hasPrefix("/"), !target.hasPrefix("/proc/"), target != "/dev/null" else { return nil }
    return name + " " + target
  }
}

func names(in directory: String) -> [String] {
  ((try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []).sorted()
}

func bytes(of path: String) throws -> [UInt8] {
  [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
}

func put(_ bytes: [UInt8], at path: String) throws { try Data(bytes).write(to: URL(fileURLWithPath: path)) }

/// The size of a file, or -1.
func fileSize(_ path: String) -> Int {
  (try? FileManager.default.attributesOfItem(atPath: path)[.size] as? Int) ?? -1
}

/// Asserts that `body` throws an `NVMError` of this code whose text names the path and is a sentence.
@discardableResult
func assertThrows<T>(
  _ code: NVMError.Code, path: String?, mentioning words: String..., file: StaticString = #filePath,
  line: UInt = #line, _ body: () throws -> T
) -> NVMError? {
  do {
    _ = try body()
    XCTFail("nothing was thrown instead of \(code)", file: file, line: line)
    return nil
  } catch let error as NVMError {
    XCTAssertEqual(error.code, code, "\(error)", file: file, line: line)
    let text = error.description
    if let path { XCTAssertTrue(text.contains(path), "no path in: \(text)", file: file, line: line) }
    XCTAssertTrue(error.message.hasSuffix("."), "no sentence: \(text)", file: file, line: line)
    for word in words {
      XCTAssertTrue(text.contains(word), "no '\(word)' in: \(text)", file: file, line: line)
    }
    return error
  } catch {
    XCTFail("another kind of error: \(error)", file: file, line: line)
    return nil
  }
}

extension PersistentRegion {
  /// Bytes of the file that its journal takes.
  var journalBytes: Int { payloadStart.bytes - (Self.minimumSize - 4096) }
  /// Its size as asked for at creation.
  var sizeWithoutJournal: Int { size - journalBytes }
}
