import Foundation
import NVMRegion
import NVMalloc
import XCTest

/// The heap in real files, by the public interface alone.
final class FileTests: XCTestCase {
  func testFilesSurviveClosingAndAbandoning() throws {
    for media in [RegionOptions.MediaChoice.emulated, .inPlaceFile, .journaledFile] {
      let path = NSTemporaryDirectory() + "nvmalloc-\(UUID().uuidString).nvm"
      defer { unlink(path) }
      let created = try PersistentRegion.create(
        at: path, size: 4 << 20, options: RegionOptions(media: media)
      ) { (region) throws(NVMError) in _ = try PersistentHeap.format(region) }
      var expected: Set<Offset> = []
      do {
        let heap = try PersistentHeap.open(created)
        let link = try heap.rootLink(named: "first")
        expected.insert(try heap.place(byteCount: 300, into: link) { heap.region.store(42, at: $0) })
        for i in 0..<40 { expected.insert(try heap.allocate(byteCount: i * 10)) }
        expected.insert(try heap.allocate(byteCount: 300_000))
        heap.close()
        try created.close()
      }
      for round in 0..<3 {
        let region = try PersistentRegion.open(at: path, options: RegionOptions(media: media))
        XCTAssertEqual(region.wasCleanlyClosed, round != 2)
        let heap = try PersistentHeap.open(region)
        XCTAssertEqual(heap.recovery.problems, [])
        XCTAssertEqual(Set(try heap.blocks.map(\.payload)), expected)
        XCTAssertEqual(heap.region.load(try heap.root(named: "first")!), 42)
        XCTAssertEqual(try heap.verify().problems, [])
        // Every block of this opening tells so.
        let p = try heap.allocate(byteCount: 10)
        XCTAssertEqual(try heap.info(of: p).epoch, heap.epoch)
        expected.insert(p)
        heap.close()
        if round == 1 { region.abandon() } else { try region.close() }
      }
    }
  }

  func testAFullDiskIsAnErrorAndNothingIsLost() throws {
    let path = NSTemporaryDirectory() + "nvmalloc-\(UUID().uuidString).nvm"
    defer { unlink(path) }
    let region = try PersistentRegion.create(
      at: path, size: 2 << 20, options: RegionOptions(media: .emulated))
    let heap = try PersistentHeap.format(region)
    var live: Set<Offset> = []
    // One refusal: the heap makes do with the least it needs.
    let happened = SystemCall.withFault(SystemCall.Fault(call: .allocate, skip: 0, errno: ENOSPC)) {
      while region.size == 2 << 20, let p = try? heap.allocate(byteCount: 50_000) { live.insert(p) }
    }
    XCTAssertTrue(happened)
    XCTAssertGreaterThan(region.size, 2 << 20)
    // The file may not grow for a while.
    var limit = rlimit()
    XCTAssertEqual(getrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit), 0)
    let before = limit.rlim_cur
    limit.rlim_cur = 3 << 20
    XCTAssertEqual(setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit), 0)
    assertThrows(.diskFull, try heap.allocate(byteCount: 4 << 20))
    while let p = try? heap.allocate(byteCount: 3000) { live.insert(p) }
    assertThrows(.diskFull, try heap.allocate(byteCount: 3000))
    limit.rlim_cur = before
    XCTAssertEqual(setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit), 0)
    XCTAssertEqual(Set(try heap.blocks.map(\.payload)), live)
    live.insert(try heap.allocate(byteCount: 1 << 20))
    XCTAssertEqual(Set(try heap.blocks.map(\.payload)), live)
    XCTAssertEqual(try heap.verify().problems, [])
    try region.close()
  }
}
