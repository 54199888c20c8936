import Foundation
import NVM
import NVMRegion
import XCTest

/// Every system call of the store's life fails in turn, the 1st, the 2nd, … until a run passes: a typed error each
/// time, nothing left behind by creation, nothing lost by the rest.
final class StoreFaultTests: StoreTestCase {
  private func withEveryFault(
    _ errors: [Int32], prepare: () throws -> Void, _ body: () throws(NVMError) -> Void,
    check: (_ what: String, _ error: NVMError?) throws -> Void
  ) throws {
    var faults = 0
    defer { XCTAssertGreaterThan(faults, 10) }
    for errno in errors {
      var skip = 0
      while true {
        try prepare()
        let what = "call \(skip) errno \(errno)"
        var thrown: NVMError?
        let hit = SystemCall.withFault(.init(call: nil, skip: skip, errno: errno)) {
          do throws(NVMError) { try body() } catch { thrown = error }
        }
        if let thrown {
          XCTAssert(hit, "an error without a failure: \(what): \(thrown)")
          XCTAssertNotNil(thrown.path, what)
        }
        try check(what, thrown)
        if !hit { break }
        skip += 1
        faults += 1
        if skip > 500 { return XCTFail("no end: \(what)") }
      }
    }
  }

  func testCreation() throws {
    try withEveryFault(
      [EIO, ENOSPC, ENOMEM], prepare: { unlink(path()) },
      { () throws(NVMError) in
        let store = try NVMStore.create(path: path(), options: options)
        store.abandon()
      },
      check: { what, error in
        let left = try FileManager.default.contentsOfDirectory(atPath: directory)
        XCTAssertEqual(left, error == nil ? ["test.nvm"] : [], what)
      })
  }

  func testOpeningGrowthAndClose() throws {
    var small = options
    small.media = .inPlaceFile
    small.initialSize = 1 << 20
    small.growthIncrement = 256 << 10
    try withEveryFault(
      [EIO, ENOSPC],
      prepare: {
        unlink(path())
        let store = try NVMStore.create(path: path(), options: small)
        try store.tree("t", of: Int.self, [UInt8].self).updateValue([1], forKey: 0)
        store.abandon()
      },
      { () throws(NVMError) in
        let store = try NVMStore.open(path: path(), options: small)
        do throws(NVMError) {
          let tree = try store.tree("t", of: Int.self, [UInt8].self)
          for i in 1...6 { try tree.updateValue([UInt8](repeating: 9, count: 150_000), forKey: i) }
        } catch {
          store.abandon()
          throw error
        }
        try store.close()
      },
      check: { what, _ in
        let store = try NVMStore.open(path: path(), options: small)
        let tree = try store.tree("t", of: Int.self, [UInt8].self)
        XCTAssertEqual(try tree[0], [1], what)
        for i in 1...6 {
          if let value = try tree[i] { XCTAssertEqual(value, [UInt8](repeating: 9, count: 150_000), what) }
        }
        XCTAssertEqual(try store.verify().problems, [], what)
        store.abandon()
      })
  }
}
