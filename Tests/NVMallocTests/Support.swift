import NVMRegion
import NVMalloc
import XCTest

/// A heap over anonymous memory, and its region.
func makeHeap(
  size: Int = 1 << 20, maximumSize: Int? = nil, geometry: HeapGeometry = .tiny,
  quarantine: QuarantinePolicy = .none, shares: Int = 1
) throws -> PersistentHeap {
  let region = try PersistentRegion.inMemory(
    image: nil, size: size, maximumSize: maximumSize ?? size, medium: nil)
  var options = options(geometry, quarantine)
  options.shareCount = shares
  return try PersistentHeap.format(region, options: options)
}

func options(_ geometry: HeapGeometry = .tiny, _ quarantine: QuarantinePolicy = .none) -> HeapOptions {
  var options = HeapOptions()
  options.geometry = geometry
  options.quarantine = quarantine
  options.growthIncrement = 16 << 10
  return options
}

/// Opens a copy of the heap's bytes as a crash at this moment would leave them, were everything written back.
func reopened(
  _ heap: PersistentHeap, maximumSize: Int? = nil, quarantine: QuarantinePolicy = .none,
  changing: (UnsafeMutableRawBufferPointer) -> Void = { _ in }
) throws -> PersistentHeap {
  let region = heap.region
  let image = UnsafeMutableRawBufferPointer.allocate(byteCount: region.size, alignment: 4096)
  defer { image.deallocate() }
  image.copyMemory(from: UnsafeRawBufferPointer(start: region.pointer(to: .null), count: region.size))
  changing(image)
  let copy = try PersistentRegion.inMemory(
    image: UnsafeRawBufferPointer(image), size: image.count, maximumSize: maximumSize ?? region.maximumSize,
    medium: nil)
  return try PersistentHeap.open(copy, options: options(.tiny, quarantine))
}

func assertThrows<T>(
  _ code: NVMError.Code, _ body: @autoclosure () throws -> T, _ message: String = "",
  file: StaticString = #filePath, line: UInt = #line
) {
  XCTAssertThrowsError(try body(), message, file: file, line: line) { error in
    XCTAssertEqual((error as? NVMError)?.code, code, "\(error) \(message)", file: file, line: line)
  }
}

extension PersistentHeap {
  var blocks: [BlockInfo] {
    get throws {
      var all: [BlockInfo] = []
      try forEachBlock { all.append($0) }
      return all
    }
  }
}

/// Small, seeded, the same everywhere.
struct SplitMix: RandomNumberGenerator {
  var state: UInt64
  init(seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}

/// A few threads to wait for.
final class Threads {
  private var threads: [pthread_t] = []

  func run(_ body: @escaping @Sendable () -> Void) {
    final class Job {
      let body: @Sendable () -> Void
      init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    var thread = pthread_t()
    let job = Unmanaged.passRetained(Job(body))
    let result = pthread_create(
      &thread, nil,
      { argument in
        Unmanaged<Job>.fromOpaque(argument!).takeRetainedValue().body()
        return nil
      }, job.toOpaque())
    precondition(result == 0)
    threads.append(thread)
  }
  func wait() {
    for thread in threads { pthread_join(thread, nil) }
    threads = []
  }
}
