import Foundation
import NVM
import XCTest

/// What the outside world can put in the way of a store: each a typed error that names the path and what to do, the
/// file left as it was, nothing left behind.
final class BadInputTests: StoreTestCase {
  private func makeStore(_ name: String = "test.nvm") throws {
    let store = try NVMStore(path: path(name), options: options)
    let tree = try store.tree("t", of: Int.self, String.self)
    for i in 0..<200 { try tree.updateValue("the value of \(i)", forKey: i) }
    try store.close()
  }
  private func bytes(_ path: String) throws -> [UInt8] {
    [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
  }
  private func put(_ bytes: [UInt8], _ path: String) throws {
    try Data(bytes).write(to: URL(fileURLWithPath: path))
  }
  private func names() throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: directory).sorted()
  }

  private func assertRefused(
    _ code: NVMError.Code, _ content: [UInt8], _ words: String..., line: UInt = #line
  ) throws {
    let path = path("content")
    try put(content, path)
    for access in [RegionOptions.Access.readWrite, .readOnly] {
      var options = options
      options.access = access
      for word in words + [path] {
        assertThrows(code, mentions: word, line: line) { try NVMStore(path: path, options: options) }
      }
    }
    assertThrows(.alreadyExists, mentions: path, "choose another path", line: line) {
      try NVMStore.create(path: path, options: options)
    }
    XCTAssert(try bytes(path) == content, "the file was changed", line: line)
    try FileManager.default.removeItem(atPath: path)
  }

  func testPaths() throws {
    let deep = path("no/such/x.nvm")
    assertThrows(.notFound, mentions: deep, "directory \(path("no/such")) does not exist. Create it first") {
      try NVMStore(path: deep, options: options)
    }
    assertThrows(.notFound, mentions: path("none"), "Create it") { try NVMStore.open(path: path("none")) }
    var readOnly = options
    readOnly.access = .readOnly
    assertThrows(.notFound, mentions: path("none")) { try NVMStore(path: path("none"), options: readOnly) }
    assertThrows(.notAFile, mentions: directory, "Give the path of a file") { try NVMStore(path: directory) }
    assertThrows(.invalidArgument) { try NVMStore.create(path: path("ro"), options: readOnly) }
    XCTAssertEqual(try names(), [])
  }

  func testForeignFiles() throws {
    try assertRefused(.notARegion, [], "Remove it to create")
    try assertRefused(.notARegion, Array("short".utf8))
    try assertRefused(.notARegion, [UInt8](repeating: 0, count: 1 << 20))
    try assertRefused(.notARegion, Array(String(repeating: "#!/bin/sh\necho hello\n", count: 5000).utf8))
    XCTAssertEqual(try names(), [])
  }

  func testTruncatedFile() throws {
    try makeStore()
    let whole = try bytes(path())
    try assertRefused(.truncated, Array(whole[..<(whole.count - 1)]), "its end is missing", "backup")
    try assertRefused(.truncated, Array(whole[..<(64 << 10)]))
  }

  func testRegionThatIsNoStore() throws {
    let region = try PersistentRegion.create(
      at: path("region"), size: 1 << 20, options: RegionOptions(media: .emulated))
    try region.close()
    assertThrows(.notARegion, mentions: path("region")) {
      try NVMStore(path: path("region"), options: options)
    }
    _ = try PersistentRegion.create(at: path("heap"), size: 4 << 20, options: RegionOptions(media: .emulated))
    {
      (region) throws(NVMError) in _ = try PersistentHeap.format(region)
    }
    assertThrows(.typeMismatch, mentions: path("heap"), "no store") {
      try NVMStore(path: path("heap"), options: options)
    }
  }

  func testFileInUse() throws {
    let store = try NVMStore(path: path(), options: options)
    assertThrows(
      .locked, mentions: path(), "in use by another handle of this process", "Close it there first"
    ) {
      try NVMStore(path: path(), options: options)
    }
    try store.close()
    try NVMStore(path: path(), options: options).close()
  }

  func testSizes() throws {
    for size in [0, -1, 4096, 64 << 10] {
      var options = options
      options.initialSize = size
      XCTAssertThrowsError(try NVMStore(path: path(), options: options), "size \(size)") { error in
        let code = (error as? NVMError)?.code
        XCTAssert(code == .invalidArgument || code == .outOfSpace, "size \(size): \(error)")
      }
      XCTAssertEqual(try names(), [], "size \(size)")
    }
  }

  func testFullDisk() throws {
    let mount = path("mount")
    try FileManager.default.createDirectory(atPath: mount, withIntermediateDirectories: true)
    guard system("mount -t tmpfs -o size=8m none '\(mount)' 2>/dev/null") == 0 else {
      throw XCTSkip("a small tmpfs cannot be mounted here (root only)")
    }
    defer { _ = system("umount '\(mount)'") }
    let file = "\(mount)/x.nvm"
    var options = options
    options.initialSize = 64 << 20
    assertThrows(.diskFull, mentions: file, "no room", "smaller size") {
      try NVMStore(path: file, options: options)
    }
    XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: mount), [])
    // Grown until nothing more fits: an error, and the store goes on at its size.
    options.initialSize = 2 << 20
    options.growthIncrement = 1 << 20
    let store = try NVMStore(path: file, options: options)
    let tree = try store.tree("t", of: Int.self, [UInt8].self)
    var stored = 0
    var failure: NVMError?
    while failure == nil, stored < 20_000 {
      do {
        try tree.updateValue([UInt8](repeating: 7, count: 2000), forKey: stored)
        stored += 1
      } catch {
        failure = error
      }
    }
    XCTAssert(failure?.code == .diskFull || failure?.code == .outOfSpace, "\(String(describing: failure))")
    XCTAssert(failure?.description.contains(file) ?? false, "\(String(describing: failure))")
    XCTAssertEqual(tree.count, stored)
    assertThrows(failure?.code ?? .diskFull) {
      try store.write { tx in
        try tx[tree].setValue([UInt8](repeating: 8, count: 1 << 20), forKey: 0)
        try tx[tree].setValue([UInt8](repeating: 8, count: 1 << 20), forKey: 1)
      }
    }
    for i in stride(from: 0, to: stored, by: 2) { try tree.removeValue(forKey: i) }
    for i in stride(from: 0, to: stored / 4, by: 2) {
      try tree.updateValue([UInt8](repeating: 9, count: 2000), forKey: i)
    }
    try assertClean(store)
    try store.close()
    let again = try NVMStore.open(path: file, options: options)
    XCTAssertEqual(try again.tree("t", of: Int.self, [UInt8].self)[1], [UInt8](repeating: 7, count: 2000))
    try assertClean(again)
    try again.close()
  }

  func testReadOnlyFileSystem() throws {
    let mount = path("mount")
    try FileManager.default.createDirectory(atPath: mount, withIntermediateDirectories: true)
    guard system("mount -t tmpfs -o size=16m none '\(mount)' 2>/dev/null") == 0 else {
      throw XCTSkip("a tmpfs cannot be mounted here (root only)")
    }
    defer { _ = system("umount '\(mount)'") }
    let file = "\(mount)/x.nvm"
    try NVMStore(path: file, options: options).close()
    XCTAssertEqual(system("mount -o remount,ro '\(mount)'"), 0)
    assertThrows(.readOnlyFileSystem, mentions: file, "Open the file read-only") {
      try NVMStore(path: file, options: options)
    }
    assertThrows(.readOnlyFileSystem, mentions: "\(mount)/y.nvm", "Choose another place") {
      try NVMStore(path: "\(mount)/y.nvm", options: options)
    }
    var readOnly = options
    readOnly.access = .readOnly
    XCTAssertEqual(try NVMStore(path: file, options: readOnly).treeNames, [])
  }

  func testNoPermission() throws {
    try makeStore()
    XCTAssertEqual(chmod(path(), 0o400), 0)
    // Root may open anything: be somebody else for a while.
    let isRoot = geteuid() == 0
    if isRoot { XCTAssertEqual(seteuid(65534), 0) }
    defer { if isRoot { XCTAssertEqual(seteuid(0), 0) } }
    assertThrows(.permissionDenied, mentions: path(), "Change its permissions or open it read-only") {
      try NVMStore(path: path(), options: options)
    }
    if isRoot {
      assertThrows(.permissionDenied, mentions: path("new"), "may not create files in \(directory)") {
        try NVMStore(path: path("new"), options: options)
      }
    }
    XCTAssertEqual(try names(), ["test.nvm"])
  }

  /// Bits flipped anywhere: a typed error, a problem in the report, or the right answer. Never a crash, never a
  /// wrong value where reads are verified.
  func testFlippedBits() throws {
    var small = options
    small.initialSize = 1 << 20
    small.verifiesReads = true
    do {
      let store = try NVMStore(path: path(), options: small)
      let tree = try store.tree("t", of: Int.self, String.self)
      for i in 0..<500 { try tree.updateValue("the value of \(i)", forKey: i) }
      try store.close()
    }
    let whole = try bytes(path())
    // Most of the file is empty: aim at what is not.
    let used = (0..<whole.count / 64).filter { line in whole[line * 64..<line * 64 + 64].contains { $0 != 0 }
    }
    let seed = UInt64.random(in: 0 ... .max)
    var random = SeededGenerator(seed: seed)
    var (refused, reported, silent) = (0, 0, 0)
    for round in 0..<300 {
      var mutated = whole
      let flips = Int.random(in: 1...3, using: &random)
      for _ in 0..<flips {
        let at = used.randomElement(using: &random)! * 64 + Int.random(in: 0..<64, using: &random)
        mutated[at] ^= 1 << UInt8.random(in: 0..<8, using: &random)
      }
      try put(mutated, path("flipped"))
      do {
        let store = try NVMStore.open(path: path("flipped"), options: small)
        let tree = try store.tree("t", of: Int.self, String.self)
        var wrong = 0
        for i in 0..<500 {
          if let value = try? tree[i], value != "the value of \(i)" { wrong += 1 }
        }
        let report = try store.verify()
        if report.isClean { silent += 1 } else { reported += 1 }
        if wrong > 0 || (report.isClean && tree.count != 500) {
          XCTFail("round \(round), seed \(seed): \(wrong) wrong values, report \(report.problems)")
        }
        try store.close()
      } catch {
        XCTAssertFalse(error.message.isEmpty)
        refused += 1
      }
    }
    print("bits flipped: \(refused) refused, \(reported) reported, \(silent) without effect")
    XCTAssertGreaterThan(refused + reported, 100, "seed \(seed)")
  }

  /// Options of any value make a store that works, or an error.
  func testOptionsOfAnyValue() throws {
    let sizes = [Int.min, -1, 0, 1, 1 << 20, 3 << 20, Int.max]
    let set: [(String, WritableKeyPath<NVMStoreOptions, Int>)] = [
      ("initialSize", \.initialSize), ("growthIncrement", \.growthIncrement),
    ]
    var cases: [(String, NVMStoreOptions)] = []
    for media in [RegionOptions.MediaChoice.emulated, .journaledFile] {
      var base = options
      base.media = media
      base.initialSize = 2 << 20
      for countsWear in [false, true] {
        base.countsWear = countsWear
        for size in sizes {
          for (name, option) in set {
            var options = base
            options[keyPath: option] = size
            cases.append(("\(name) \(size), \(media), wear \(countsWear)", options))
          }
          var options = base
          options.maximumSize = size
          cases.append(("maximumSize \(size), \(media), wear \(countsWear)", options))
          options = base
          options.journalSize = size
          cases.append(("journalSize \(size), \(media), wear \(countsWear)", options))
        }
      }
      for duration in [Duration.seconds(Int64.max), .seconds(Int64.min), .zero, .nanoseconds(1)] {
        var options = base
        options.countsWear = false
        options.quarantine = .quarantine(duration)
        cases.append(("quarantine \(duration)", options))
        options.protection = .deferred(interval: duration)
        cases.append(("protection \(duration)", options))
      }
    }
    var made = 0
    for (name, options) in cases {
      try? FileManager.default.removeItem(atPath: path())
      do {
        for _ in 0..<2 {
          let store = try NVMStore(path: path(), options: options)
          let tree = try store.tree("t", of: Int.self, [UInt8].self)
          for i in 0..<20 { try tree.setValue([UInt8](repeating: 1, count: 40_000), forKey: i) }
          let report = try store.verify()
          XCTAssertEqual(report.problems, [], name)
          try store.close()
        }
        made += 1
      } catch {
        XCTAssert(
          [.invalidArgument, .outOfSpace, .diskFull, .unsupported, .outOfMemory].contains(error.code),
          "\(name): \(error)")
      }
    }
    XCTAssertGreaterThan(made, cases.count / 3)
  }
}
