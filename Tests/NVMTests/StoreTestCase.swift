import Foundation
import NVM
import XCTest

/// A directory of its own for each test, on tmpfs where there is one.
class StoreTestCase: XCTestCase {
  private(set) var directory = ""

  override func setUpWithError() throws {
    let parent = FileManager.default.isWritableFile(atPath: "/dev/shm") ? "/dev/shm" : NSTemporaryDirectory()
    directory = "\(parent)/nvm-tests-\(getpid())-\(UInt32.random(in: 0 ... .max))"
    try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
  }

  override func tearDown() {
    try? FileManager.default.removeItem(atPath: directory)
  }

  func path(_ name: String = "test.nvm") -> String { "\(directory)/\(name)" }

  var options: NVMStoreOptions {
    var options = NVMStoreOptions(media: .emulated, initialSize: 4 << 20)
    options.quarantine = .none
    return options
  }

  func assertThrows<T>(
    _ code: NVMError.Code, mentions words: String..., file: StaticString = #filePath, line: UInt = #line,
    _ body: () throws -> T
  ) {
    do {
      _ = try body()
      XCTFail("did not throw \(code)", file: file, line: line)
    } catch let error as NVMError {
      XCTAssertEqual(error.code, code, "\(error)", file: file, line: line)
      for word in words {
        XCTAssert("\(error)".contains(word), "\"\(error)\" does not say \"\(word)\"", file: file, line: line)
      }
    } catch {
      XCTFail("threw \(error)", file: file, line: line)
    }
  }

  func assertClean(_ store: NVMStore, file: StaticString = #filePath, line: UInt = #line) throws {
    let report = try store.verify()
    XCTAssertEqual(report.problems, [], file: file, line: line)
    XCTAssertEqual(report.leakedBlocks, 0, file: file, line: line)
  }
}

/// Seeded, so that a failure can be repeated.
struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64
  init(seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}
