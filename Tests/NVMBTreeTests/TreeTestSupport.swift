import NVMRegion
import NVMalloc
import XCTest

@testable import NVMBTree

/// Repeatable random numbers; print the seed on failure.
struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64
  init(seed: UInt64) { state = seed &+ 0x9E37_79B9_7F4A_7C15 }
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}

/// A heap in memory.
func makeHeap(megabytes: Int = 64) throws -> PersistentHeap {
  let region = try PersistentRegion.inMemory(
    image: nil, size: megabytes << 20, maximumSize: megabytes << 22, medium: nil)
  return try PersistentHeap.format(region)
}

let nodeSizes: [(String, TreeOptions)] = [
  ("tiny nodes", TreeOptions(leafCapacity: 4, innerCapacity: 3, extentBytes: 16 << 10)),
  ("small nodes", TreeOptions(leafCapacity: 9, innerCapacity: 5, extentBytes: 16 << 10)),
  ("normal nodes", TreeOptions()),
]

func assertClean(
  _ report: TreeReport, _ context: String = "", file: StaticString = #filePath, line: UInt = #line
) {
  XCTAssertEqual(report.problems, [], context, file: file, line: line)
}

struct Mismatch: Error, CustomStringConvertible {
  let description: String
  init(_ what: String) { description = "mismatch: \(what)" }
}
