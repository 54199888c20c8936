import Foundation
import NVM
import XCTest

/// Changes of trees under persist groups.
final class GroupTests: StoreTestCase {
  private func options(_ media: RegionOptions.MediaChoice) -> NVMStoreOptions {
    NVMStoreOptions(media: media, initialSize: 8 << 20)
  }

  func testOnAJournalNothingWaits() throws {
    let store = try NVMStore(path: path("groups"), options: options(.journaledFile))
    let tree = try store.tree("t", of: UInt64.self, String.self)
    let group = store.makePersistGroup()
    for key in 0..<200 as Range<UInt64> { try tree.setValue("value \(key)", forKey: key, in: group) }
    XCTAssertEqual(try tree.removeValue(forKey: 3, in: group), "value 3")
    XCTAssertEqual(try tree.updateValue("new", forKey: 4, in: group), "value 4")
    XCTAssertFalse(group.isPersisted, "nobody has waited for the disk")
    try group.wait()
    XCTAssertTrue(group.isPersisted)
    store.abandon()
    let again = try NVMStore(path: path("groups"), options: options(.journaledFile))
    let tree2 = try again.tree("t", of: UInt64.self, String.self)
    XCTAssertEqual(tree2.count, 199)
    XCTAssertEqual(try tree2[4], "new")
    XCTAssertNil(try tree2[3])
    try again.close()
  }

  func testOnOtherMediaFencesComeLater() throws {
    for media in [RegionOptions.MediaChoice.emulated, .inPlaceFile] {
      let store = try NVMStore(path: path("groups\(media)"), options: options(media))
      let tree = try store.tree("t", of: UInt64.self, UInt64.self)
      let group = store.makePersistGroup()
      try tree.setValue(1, forKey: 1, in: group)
      XCTAssertFalse(group.isPersisted, "\(media)")
      let fences = store.region.counters.fences
      XCTAssertEqual(try tree[1], 1)
      XCTAssertEqual(store.region.counters.fences, fences + 1, "a reader settles what it meets")
      XCTAssertTrue(group.isPersisted, "\(media)")
      XCTAssertEqual(try tree.updateValue(2, forKey: 1, in: group), 1)
      XCTAssertFalse(group.isPersisted, "\(media)")
      try group.wait()
      XCTAssertTrue(group.isPersisted, "\(media)")
      // Closing settles what nobody has asked for.
      XCTAssertEqual(try tree.removeValue(forKey: 1, in: group), 2)
      try tree.setValue(3, forKey: 3, in: group)
      try store.close()
      let again = try NVMStore(path: path("groups\(media)"), options: options(media))
      let reopened = try again.tree("t", of: UInt64.self, UInt64.self)
      XCTAssertNil(try reopened[1])
      XCTAssertEqual(try reopened[3], 3)
      try again.close()
    }
  }

  func testAGroupOfAnotherStoreIsRefused() throws {
    let a = try NVMStore(path: path("a"), options: options(.emulated))
    let b = try NVMStore(path: path("b"), options: options(.emulated))
    let tree = try a.tree("t", of: UInt64.self, UInt64.self)
    XCTAssertThrowsError(try tree.setValue(1, forKey: 1, in: b.makePersistGroup())) {
      XCTAssertEqual(($0 as? NVMError)?.code, .invalidArgument)
    }
    XCTAssertEqual(tree.count, 0)
    try a.close()
    try b.close()
  }

  /// Each task awaits its own changes; what it has been told of survives.
  func testTasks() async throws {
    let store = try NVMStore(path: path("tasks"), options: options(.journaledFile))
    let tree = try store.tree("t", of: UInt64.self, UInt64.self)
    try await withThrowingTaskGroup(of: Void.self) { tasks in
      for task in 0..<16 as Range<UInt64> {
        tasks.addTask {
          for i in 0..<20 as Range<UInt64> {
            let group = store.makePersistGroup()
            try tree.setValue(i, forKey: task * 1000 + i, in: group)
            try await group.persisted()
            XCTAssertTrue(group.isPersisted)
            XCTAssertEqual(try tree[task * 1000 + i], i)
          }
        }
      }
      try await tasks.waitForAll()
    }
    store.abandon()
    let again = try NVMStore(path: path("tasks"), options: options(.journaledFile))
    XCTAssertEqual(try again.tree("t", of: UInt64.self, UInt64.self).count, 320)
    try again.close()
  }
}
