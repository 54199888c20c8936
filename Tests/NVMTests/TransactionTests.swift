import Foundation
import NVM
import Synchronization
import XCTest

/// Several trees, all or nothing.
final class TransactionTests: StoreTestCase {
  struct Refused: Error {}

  func testChangesOfSeveralTreesGoInTogether() throws {
    let store = try NVMStore(path: path(), options: options)
    let ages = try store.tree("ages", of: String.self, Int.self)
    let log = try store.tree("log", of: UInt64.self, String.self)
    try log.updateValue("to be removed", forKey: 7)
    let size = try store.write { tx in
      XCTAssertNil(try tx[ages].updateValue(41, forKey: "ada"))
      XCTAssertEqual(try tx[ages].updateValue(42, forKey: "ada"), 41)
      XCTAssertEqual(try tx[log].removeValue(forKey: 7), "to be removed")
      XCTAssertNil(try tx[log].removeValue(forKey: 8))
      try tx[log].setValue("ada is 42", forKey: 9)
      XCTAssertEqual(try tx[ages]["ada"], 42)
      XCTAssertNil(try tx[log].value(forKey: 7))
      XCTAssertFalse(try tx[log].contains(7))
      XCTAssert(try tx[log].contains(9))
      // Nobody else sees it yet.
      XCTAssertNil(try ages["ada"])
      XCTAssertEqual(try log[7], "to be removed")
      return tx.count
    }
    XCTAssertEqual(size, 3)
    XCTAssertEqual(try ages["ada"], 42)
    XCTAssertNil(try log[7])
    XCTAssertEqual(try log[9], "ada is 42")
    try assertClean(store)
    store.abandon()
    let again = try NVMStore.open(path: path(), options: options)
    XCTAssertEqual(again.recovery.replayedChanges, 0)
    XCTAssertEqual(try again.tree("ages", of: String.self, Int.self)["ada"], 42)
  }

  /// Transactions keep their changes in the same memory one after the other: nothing of one is found by the next, however
  /// it ended and whatever its size was.
  func testNothingIsLeftOfTheTransactionBefore() throws {
    let store = try NVMStore(path: path(), options: options)
    let words = try store.tree("words", of: Int.self, Int.self)
    let texts = try store.tree("texts", of: String.self, String.self)
    var model: [Int: Int] = [:]
    var random = SeededGenerator(seed: 12)
    for (turn, count) in [3, 100, 1, 0, 900, 2, 5000, 40, 199, 200, 7].enumerated() {
      let keys = (0..<count).map { _ in Int.random(in: 0..<10_000, using: &random) }
      for isRefused in [true, false] {
        do {
          try store.write { tx in
            for key in 0..<50 {
              XCTAssertEqual(try tx[words].value(forKey: key), model[key])
              XCTAssertEqual(try tx[texts].value(forKey: "\(key)"), model[key].map { "\($0)" })
            }
            XCTAssert(tx.isEmpty)
            for key in keys {
              if key % 7 == 3 {
                try tx[words].removeValue(forKey: key)
                try tx[texts].removeValue(forKey: "\(key)")
              } else {
                try tx[words].setValue(turn, forKey: key)
                try tx[texts].setValue("\(turn)", forKey: "\(key)")
              }
            }
            XCTAssertLessThanOrEqual(tx.count, 2 * Set(keys).count)
            if isRefused { throw Refused() }
          }
          for key in keys { model[key] = key % 7 == 3 ? nil : turn }
        } catch is Refused {}
      }
    }
    XCTAssertEqual(words.count, model.count)
    XCTAssertEqual(texts.count, model.count)
    for (key, value) in model {
      XCTAssertEqual(try words.value(forKey: key), value)
      XCTAssertEqual(try texts.value(forKey: "\(key)"), "\(value)")
    }
    try assertClean(store)
    // A tree of the same name that is made anew has nothing of the old one's.
    try store.removeTree(named: "words")
    let again = try store.tree("words", of: Int.self, Int.self)
    try store.write { tx in
      XCTAssertNil(try tx[again].value(forKey: 3))
      try tx[again].setValue(1, forKey: 3)
    }
    XCTAssertEqual(again.count, 1)
    try assertClean(store)
  }

  func testThrowingDiscardsEverything() throws {
    let store = try NVMStore(path: path(), options: options)
    let a = try store.tree("a", of: Int.self, Int.self)
    let b = try store.tree("b", of: String.self, String.self)
    try a.updateValue(1, forKey: 1)
    XCTAssertThrowsError(
      try store.write { tx in
        try tx[a].updateValue(2, forKey: 1)
        try tx[a].updateValue(2, forKey: 2)
        try tx[b].updateValue("x", forKey: "y")
        throw Refused()
      }
    ) { XCTAssert($0 is Refused) }
    XCTAssertEqual(try a[1], 1)
    XCTAssertEqual(a.count, 1)
    XCTAssertEqual(b.count, 0)
    // Writers may go on.
    try a.updateValue(3, forKey: 1)
    try b.updateValue("still", forKey: "here")
    try assertClean(store)
  }

  func testMisuseThrows() throws {
    let store = try NVMStore(path: path(), options: options)
    let other = try NVMStore(path: path("other.nvm"), options: options)
    let a = try store.tree("a", of: Int.self, Int.self)
    let elsewhere = try other.tree("a", of: Int.self, Int.self)
    var kept: StoreTransaction?
    var view: TransactionTree<Int, Int>?
    try store.write { tx in
      kept = tx
      view = try tx[a]
      assertThrows(.invalidArgument, mentions: "tx[tree]") { try a.updateValue(1, forKey: 1) }
      assertThrows(.invalidArgument, mentions: "tx[tree]") { try a.removeValue(forKey: 1) }
      assertThrows(.invalidArgument, mentions: "not nest") { try store.write { _ in } }
      assertThrows(.invalidArgument) { try store.close() }
      assertThrows(.invalidArgument) { try store.verify() }
      assertThrows(.invalidArgument) { try store.removeTree(named: "a") }
      assertThrows(.invalidArgument) { try tx[elsewhere] }
      // A tree may be made meanwhile; it is not part of the transaction.
      let new = try store.tree("new", of: Int.self, Int.self)
      try new.updateValue(1, forKey: 1)
      try tx[new].updateValue(2, forKey: 2)
    }
    assertThrows(.closed) { try kept?[a] }
    assertThrows(.closed) { try view?.updateValue(1, forKey: 1) }
    XCTAssertEqual(try store.tree("new", of: Int.self, Int.self).count, 2)
    try a.updateValue(1, forKey: 1)
  }

  func testLargeTransaction() throws {
    let store = try NVMStore(path: path(), options: options)
    let a = try store.tree("a", of: Int.self, String.self)
    let b = try store.tree("b", of: String.self, [UInt8].self)
    try store.write { tx in
      for i in 0..<5000 {
        try tx[a].setValue("the value of \(i)", forKey: i)
        try tx[b].setValue([UInt8](repeating: UInt8(i & 0xFF), count: i % 300), forKey: "key \(i)")
      }
    }
    XCTAssertEqual(a.count, 5000)
    XCTAssertEqual(try b["key 299"]?.count, 299)
    try store.write { tx in for i in 0..<5000 where i % 7 != 0 { try tx[a].removeValue(forKey: i) } }
    XCTAssertEqual(a.count, 715)
    try assertClean(store)
  }

  /// Money moves between accounts of two trees while threads transfer, write and read: no reader sees a sum that
  /// is not whole, and nothing is lost.
  func testReadersNeverSeeHalf() throws {
    let store = try NVMStore(path: path(), options: options)
    let left = try store.tree("left", of: Int.self, Int.self)
    let right = try store.tree("right", of: Int.self, Int.self)
    let accounts = 8
    for i in 0..<accounts {
      try left.updateValue(100, forKey: i)
      try right.updateValue(0, forKey: i)
    }
    let running = Atomic<Int>(2)
    let ordinary = Atomic<Int>(0)
    DispatchQueue.concurrentPerform(iterations: 4) { thread in
      do {
        var random = SeededGenerator(seed: UInt64(thread))
        switch thread {
        case 0, 1:
          for _ in 0..<300 {
            let account = Int.random(in: 0..<accounts, using: &random)
            try store.write { tx in
              let amount = Int.random(in: 1...5, using: &random)
              try tx[left].updateValue(try tx[left][account]! - amount, forKey: account)
              try tx[right].updateValue(try tx[right][account]! + amount, forKey: account)
            }
          }
          running.subtract(1, ordering: .relaxed)
        case 2:
          // An ordinary writer of the same tree: what it adds must never be undone.
          while running.load(ordering: .relaxed) > 0 {
            let n = ordinary.load(ordering: .relaxed)
            try left.updateValue(n, forKey: 1_000_000 + n)
            ordinary.add(1, ordering: .relaxed)
          }
        default:
          // One account: right before left. If a transfer shows on the right, it must on the left.
          while running.load(ordering: .relaxed) > 0 {
            let account = Int.random(in: 0..<accounts, using: &random)
            let r = try right[account]!
            let l = try left[account]!
            XCTAssertLessThanOrEqual(l + r, 100, "a transfer was seen by half")
          }
        }
      } catch {
        XCTFail("thread \(thread): \(error)")
      }
    }
    for i in 0..<accounts { XCTAssertEqual(try left[i]! + (try right[i]!), 100) }
    XCTAssertEqual(left.count, accounts + ordinary.load(ordering: .relaxed))
    try assertClean(store)
  }

  /// One token is passed on from key to key of the first leaf by transactions that do more behind it: whoever looks for
  /// the first entry finds the token.
  func testScansNeverSeeHalf() throws {
    let store = try NVMStore(path: path(), options: options)
    let tree = try store.tree("tokens", of: Int.self, [UInt8].self)
    let rest = 1000..<1100
    let text = [UInt8](repeating: 7, count: 2000)
    for key in rest { try tree.setValue(text, forKey: key) }
    try tree.setValue([0], forKey: 0)
    let running = Atomic<Int>(1)
    DispatchQueue.concurrentPerform(iterations: 2) { thread in
      do {
        if thread == 0 {
          defer { running.store(0, ordering: .relaxed) }
          for i in 0..<600 {
            try store.write { tx in
              try tx[tree].removeValue(forKey: i % 4)
              try tx[tree].setValue([0], forKey: (i + 1) % 4)
              for key in rest.suffix(40) { try tx[tree].setValue(text, forKey: key) }
            }
          }
        } else {
          while running.load(ordering: .relaxed) > 0 {
            guard let key = try tree.first?.key, key < 4 else {
              return XCTFail("a transaction was seen by half")
            }
          }
        }
      } catch {
        XCTFail("thread \(thread): \(error)")
      }
    }
    try assertClean(store)
  }

  /// A transaction that finds no room has not happened, and the store goes on.
  func testNoRoomTakesEverythingBack() throws {
    var options = options
    options.maximumSize = 4 << 20
    let store = try NVMStore(path: path(), options: options)
    let a = try store.tree("a", of: Int.self, [UInt8].self)
    let b = try store.tree("b", of: Int.self, [UInt8].self)
    for i in 0..<50 {
      try a.updateValue([UInt8](repeating: 1, count: 1000), forKey: i)
      try b.updateValue([UInt8](repeating: 1, count: 1000), forKey: i)
    }
    let free = store.statistics.heap.freeBytes
    // The log fits, what it says does not fit beside it.
    let large = [UInt8](repeating: 2, count: free / 100)
    var refused = 0
    for n in stride(from: 40, through: 120, by: 10) {
      do {
        try store.write { tx in
          for i in 0..<n {
            try tx[a].setValue(large, forKey: 25 + i)
            try tx[b].removeValue(forKey: i)
          }
        }
        // It fitted; back to the beginning.
        try store.write { tx in
          for i in 0..<n {
            if 25 + i < 50 {
              try tx[a].setValue([UInt8](repeating: 1, count: 1000), forKey: 25 + i)
            } else {
              try tx[a].removeValue(forKey: 25 + i)
            }
            if i < 50 { try tx[b].setValue([UInt8](repeating: 1, count: 1000), forKey: i) }
          }
        }
      } catch let error as NVMError {
        XCTAssertEqual(error.code, .outOfSpace, "\(error)")
        refused += 1
      }
      XCTAssertEqual(a.count, 50)
      XCTAssertEqual(b.count, 50)
      for i in 0..<50 { XCTAssertEqual(try a[i], [UInt8](repeating: 1, count: 1000)) }
    }
    XCTAssertGreaterThan(refused, 0)
    try assertClean(store)
    store.abandon()
    let again = try NVMStore.open(path: path(), options: options)
    XCTAssertEqual(again.recovery.replayedChanges, 0)
    try assertClean(again)
  }

  /// The last change of a key counts, however long its values, on every medium; a model tells what must be there.
  func testKeysChangedAgain() throws {
    for media in [RegionOptions.MediaChoice.emulated, .journaledFile] {
      var options = options
      options.media = media
      let path = path("again-\(media).nvm")
      let store = try NVMStore(path: path, options: options)
      let words = try store.tree("words", of: UInt64.self, UInt64.self)
      let texts = try store.tree("texts", of: String.self, String.self)
      var model: [UInt64: UInt64] = [:]
      var random = SeededGenerator(seed: 7)
      for _ in 0..<30 {
        try store.write { tx in
          let (w, t) = (try tx[words], try tx[texts])
          for _ in 0..<Int.random(in: 1...300, using: &random) {
            let key = UInt64.random(in: 0..<400, using: &random)
            let text = "the key \(key)"
            if Int.random(in: 0..<4, using: &random) == 0 {
              XCTAssertEqual(try w.removeValue(forKey: key), model.removeValue(forKey: key))
              try t.removeValue(forKey: text)
            } else {
              let value = random.next()
              XCTAssertEqual(try w.updateValue(value, forKey: key), model.updateValue(value, forKey: key))
              try t.setValue(String(repeating: "\(value) ", count: Int(value % 9)), forKey: text)
            }
          }
          XCTAssertLessThanOrEqual(tx.count, 800)
        }
        XCTAssertEqual(words.count, model.count)
      }
      func check(_ words: DurableBTree<UInt64, UInt64>, _ texts: DurableBTree<String, String>) throws {
        XCTAssertEqual(texts.count, model.count)
        for (key, value) in model {
          XCTAssertEqual(try words[key], value)
          XCTAssertEqual(
            try texts["the key \(key)"], String(repeating: "\(value) ", count: Int(value % 9)))
        }
      }
      try check(words, texts)
      try assertClean(store)
      store.abandon()
      let again = try NVMStore.open(path: path, options: options)
      try check(try again.tree("words"), try again.tree("texts"))
      try assertClean(again)
    }
  }

  /// On a journal values are stored in their places; what finds no room is taken back all the same.
  func testNoRoomOnAJournal() throws {
    var options = options
    options.media = .journaledFile
    options.maximumSize = 6 << 20
    options.journalSize = 1 << 20
    let store = try NVMStore(path: path(), options: options)
    let numbers = try store.tree("numbers", of: Int.self, Int.self)
    let blobs = try store.tree("blobs", of: Int.self, [UInt8].self)
    for i in 0..<40 {
      try numbers.updateValue(i, forKey: i)
      try blobs.updateValue([UInt8](repeating: UInt8(i), count: 500), forKey: i)
    }
    let large = [UInt8](repeating: 2, count: store.statistics.heap.freeBytes / 8)
    for attempt in 0..<3 {
      assertThrows(.outOfSpace) {
        try store.write { tx in
          for i in 0..<60 {
            try tx[numbers].setValue(-i, forKey: i)
            try tx[blobs].setValue(i % 3 == 0 ? large : [UInt8](repeating: 9, count: 700), forKey: i)
          }
          try tx[numbers].removeValue(forKey: 39)
        }
      }
      XCTAssertEqual(numbers.count, 40, "attempt \(attempt)")
      XCTAssertEqual(blobs.count, 40)
      for i in 0..<40 {
        XCTAssertEqual(try numbers[i], i)
        XCTAssertEqual(try blobs[i], [UInt8](repeating: UInt8(i), count: 500))
      }
    }
    try assertClean(store)
    store.abandon()
    let again = try NVMStore.open(path: path(), options: options)
    XCTAssertEqual(try again.tree("numbers", of: Int.self, Int.self).count, 40)
    try assertClean(again)
  }

  /// A value that its own coding cannot read is an error inside of a transaction too, not a missing entry.
  func testValuesThatCannotBeRead() throws {
    struct Unreadable: DurableBytesValue {
      static let durableTypeName = "Unreadable"
      init() {}
      init?(valueBytes: UnsafeRawBufferPointer) { return nil }
      func withValueBytes<R: ~Copyable>(
        _ body: (UnsafeRawBufferPointer) throws(NVMError) -> R
      ) throws(NVMError) -> R { try withUnsafeBytes(of: 7 as UInt8, body) }
    }
    let store = try NVMStore(path: path(), options: options)
    let tree = try store.tree("t", of: Int.self, Unreadable.self)
    try store.write { tx in
      try tx[tree].setValue(Unreadable(), forKey: 1)
      assertThrows(.corrupt, mentions: "Unreadable") { try tx[tree][1] }
      assertThrows(.corrupt) { try tx[tree].removeValue(forKey: 1) }
      XCTAssert(try tx[tree].contains(1))
    }
    assertThrows(.corrupt, mentions: "Unreadable") { try tree[1] }
  }
}
