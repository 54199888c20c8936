import Glibc
import NVMRegion
import XCTest

/// Every system call fails in turn, the 1st, the 2nd, … until a run passes: an error each time, nothing lost,
/// nothing left behind.
final class FaultInjectionTests: RegionTestCase {
  private let errors = [EIO, ENOSPC, ENOMEM, EACCES, EMFILE, EINVAL]

  /// Runs `body` with the n-th call of each kind (and of any kind) failing, until a run meets no failure.
  /// `body` closes `closing` descriptors. `check` runs after each, with what `body` threw.
  private func withEveryFault(
    closing: Int = 0, line: UInt = #line, prepare: () throws -> Void = {},
    _ body: () throws(NVMError) -> Void,
    check: (_ what: String, _ error: NVMError?) throws -> Void
  ) throws {
    for call in [nil] + SystemCall.allCases.map(Optional.init) {
      for error in errors {
        var skip = 0
        while true {
          try prepare()
          let descriptors = openDescriptors()
          let what = "\(call?.rawValue ?? "call") \(skip) errno \(error)"
          var thrown: NVMError?
          let hit = SystemCall.withFault(.init(call: call, skip: skip, errno: error)) {
            do throws(NVMError) { try body() } catch { thrown = error }
          }
          XCTAssertEqual(openDescriptors(), descriptors - closing, "descriptors: \(what)", line: line)
          if let thrown {
            XCTAssertTrue(hit, "an error without a failure: \(what): \(thrown)", line: line)
            XCTAssertNotNil(thrown.path, what, line: line)
            XCTAssertTrue(thrown.message.hasSuffix("."), thrown.message, line: line)
          }
          try check(what, thrown)
          if !hit { break }
          skip += 1
          if skip > 200 { return XCTFail("no end: \(what)", line: line) }
        }
      }
    }
  }

  private func places() -> [(at: String, path: String, options: RegionOptions)] {
    [
      (memoryDirectory, memoryPath(), RegionOptions(media: .emulated)),
      (directory, path(), RegionOptions(media: .inPlaceFile)),
      (directory, path(), RegionOptions(media: .journaledFile)),
      (memoryDirectory, memoryPath(), RegionOptions(media: .automatic)),
    ]
  }

  func testCreate() throws {
    for (at, path, options) in places() {
      try withEveryFault(
        prepare: { unlink(path) },
        { () throws(NVMError) in
          let region = try PersistentRegion.create(at: path, size: 1 << 16, options: options)
          region.abandon()
        },
        check: { what, error in
          if error != nil {
            XCTAssertEqual(names(in: at), [], what)
          } else {
            XCTAssertEqual(names(in: at), ["r.nvm"], what)
          }
          unlink(path)
          try PersistentRegion.create(at: path, size: 1 << 16, options: options).close()
        })
      unlink(path)
    }
  }

  func testOpen() throws {
    for (_, path, options) in places() {
      for access in [RegionOptions.Access.readWrite, .readOnly] {
        unlink(path)
        let region = try PersistentRegion.create(at: path, size: 1 << 16, options: options)
        try region.storeDurable(123, at: region.payloadStart)
        try region.close()
        var opening = options
        opening.access = access
        let before = try bytes(of: path)
        try withEveryFault(
          { () throws(NVMError) in
            let region = try PersistentRegion.open(at: path, options: opening)
            try region.close()
          },
          check: { what, error in
            if access == .readOnly { XCTAssertEqual(try bytes(of: path), before, what) }
            let again = try PersistentRegion.open(at: path, options: options)
            XCTAssertEqual(again.load(again.payloadStart), 123, what)
            XCTAssertEqual(again.sizeWithoutJournal, 1 << 16, what)
            if access == .readWrite, error == nil { XCTAssertTrue(again.wasCleanlyClosed, what) }
            again.abandon()
            if access == .readOnly { try put(before, at: path) }
          })
      }
      unlink(path)
    }
  }

  func testGrow() throws {
    for (_, path, options) in places() {
      var region: PersistentRegion!
      try withEveryFault(
        prepare: {
          unlink(path)
          region = try PersistentRegion.create(at: path, size: 1 << 16, options: options)
          region.store(123, at: region.payloadStart)
          try region.persist(region.payloadStart, count: 8)
        },
        { () throws(NVMError) in try region.grow(toAtLeast: region.size + (1 << 16)) },
        check: { what, error in
          XCTAssertEqual(region.sizeWithoutJournal, error == nil ? 1 << 17 : 1 << 16, what)
          XCTAssertEqual(region.load(region.payloadStart), 123, what)
          do throws(NVMError) {
            try region.checkWritable()
            // Unharmed: goes on at its old size, and grows when asked again.
            try region.storeDurable(124, at: region.payloadStart)
            try region.grow(toAtLeast: region.journalBytes + (1 << 17))
            XCTAssertEqual(region.load(region.end - 8), 0, what)
            try region.storeDurable(7, at: region.end - 8)
            try region.close()
          } catch {
            // Poisoned: says so until it is reopened.
            XCTAssertEqual(error.code, .poisoned, what)
            XCTAssertEqual((error.underlying as? NVMError)?.code, .ioFailure, what)
            try region.close()
          }
          region = nil
          let again = try PersistentRegion.open(at: path, options: options)
          XCTAssertTrue([123, 124].contains(again.load(again.payloadStart)), what)
          try again.grow(toAtLeast: again.journalBytes + (1 << 18))
          XCTAssertEqual(again.load(again.end - 8), 0, what)
          try again.close()
        })
      unlink(path)
    }
  }

  func testClose() throws {
    for (_, path, options) in places() {
      var region: PersistentRegion!
      try withEveryFault(
        closing: 1,
        prepare: {
          unlink(path)
          region = try PersistentRegion.create(at: path, size: 1 << 16, options: options)
          region.store(123, at: region.payloadStart)
          try region.persist(region.payloadStart, count: 8)
        },
        { () throws(NVMError) in
          defer { region = nil }
          try region.close()
        },
        check: { what, error in
          let again = try PersistentRegion.open(at: path, options: options)
          XCTAssertEqual(again.load(again.payloadStart), 123, what)
          if error == nil { XCTAssertTrue(again.wasCleanlyClosed, what) }
          try again.close()
        })
      unlink(path)
    }
  }

  /// Where the file system has no unnamed files, the temporary name goes away, whatever happens.
  func testCreateWithoutUnnamedFiles() throws {
    for error in [EOPNOTSUPP, EISDIR, EINVAL] {
      let hit = SystemCall.withFault(.init(call: .open, skip: 0, errno: error)) {
        do throws(NVMError) {
          let region = try PersistentRegion.create(at: path(), size: 1 << 16) { (_) throws(NVMError) in
            XCTAssertEqual(names(in: self.directory).count, 1)
            XCTAssertTrue(names(in: self.directory)[0].hasPrefix(".r.nvm.nvm-new-"))
          }
          try region.close()
        } catch {
          XCTFail("\(error)")
        }
      }
      XCTAssertTrue(hit)
      XCTAssertEqual(names(in: directory), ["r.nvm"])
      try PersistentRegion.open(at: path()).close()
      unlink(path())
      _ = SystemCall.withFault(.init(call: .open, skip: 0, errno: error)) {
        assertThrows(.unsupported, path: nil) {
          try PersistentRegion.create(at: path(), size: 1 << 16) { (_) throws(NVMError) in
            throw NVMError(code: .unsupported, message: "No.")
          }
        }
      }
      XCTAssertEqual(names(in: directory), [])
    }
  }
}
