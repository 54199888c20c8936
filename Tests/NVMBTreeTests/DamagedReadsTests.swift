import NVMRegion
import NVMalloc
import XCTest

@testable import NVMBTree

/// A damaged tree answers rightly or not at all, whichever way it is asked.
final class DamagedReadsTests: XCTestCase {
  private var options: TreeOptions {
    var options = TreeOptions(leafCapacity: 6, innerCapacity: 4, extentBytes: 16 << 10)
    options.verifiesReads = true
    return options
  }

  /// One tree of a file that was closed in order and then damaged in one to three places, and what should be in it.
  private func check<Key: DurableKey & Comparable, Value: DurableValue & Equatable>(
    seed: UInt64, key: (UInt64) -> Key, value: (UInt64) -> Value
  ) throws -> (answers: Int, refusals: Int) {
    var random = SeededGenerator(seed: seed)
    let path = FileManager.default.temporaryDirectory.path + "/nvm-reads-\(getpid()).nvm"
    defer { unlink(path) }
    let region = try PersistentRegion.create(
      at: path, size: 1 << 20, options: RegionOptions(media: .emulated))
    let heap = try PersistentHeap.format(region)
    let tree = try DurableBTree<Key, Value>.create(in: heap, number: 3, options: options)
    for step in 0..<500 as Range<UInt64> {
      let k = key(UInt64.random(in: 0..<300, using: &random))
      if step % 3 == 2 { try tree.removeValue(forKey: k) } else { try tree.setValue(value(step), forKey: k) }
    }
    let model = try tree[...].map { ($0.key, $0.value) }
    var blocks: [Range<Int>] = []
    try heap.forEachBlock { block in
      if block.tag == .treeNodes || block.tag == .treeRecord {
        blocks.append(block.payload.bytes..<block.payload.bytes + block.capacity)
      }
    }
    let handle = tree.handle
    tree.close()
    heap.close()
    try region.close()
    var image = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
    // Only what is in use is worth damaging.
    let lines = blocks.flatMap { stride(from: $0.lowerBound & ~63, to: $0.upperBound, by: 64) }
      .filter { image[$0..<$0 + 64].contains { $0 != 0 } }
    for _ in 0..<Int.random(in: 1...3, using: &random) {
      let line = lines.randomElement(using: &random)!
      switch Int.random(in: 0..<4, using: &random) {
      case 0: image.replaceSubrange(line..<line + 64, with: repeatElement(0, count: 64))
      case 1:
        let i = Int.random(in: 0..<512, using: &random)
        image[line + i / 8] ^= 1 << UInt8(i % 8)
      case 2: for i in 0..<64 { image[line + i] = UInt8.random(in: 0...255, using: &random) }
      default:
        // A whole node, of another place.
        let (from, to) = (lines.randomElement(using: &random)! & ~511, line & ~511)
        image.replaceSubrange(to..<to + 512, with: Array(image[from..<from + 512]))
      }
    }
    let opened: DurableBTree<Key, Value>
    do {
      let region = try image.withUnsafeBytes {
        try PersistentRegion.inMemory(image: $0, size: image.count, maximumSize: image.count, medium: nil)
      }
      opened = try DurableBTree.open(in: try PersistentHeap.open(region), at: handle, options: options)
    } catch is NVMError {
      return (0, 1)
    }
    let reads = Reads(tree: opened, model: model, context: "seed \(seed)")
    reads.readAll(&random, key: key)
    return (reads.answers, reads.refusals)
  }

  func testWords() throws {
    var (answers, refusals) = (0, 0)
    for seed in 0..<60 as Range<UInt64> {
      let n = try check(seed: seed, key: { $0 &* 0x9E37_79B9_7F4A_7C15 }, value: { $0 })
      answers += n.answers
      refusals += n.refusals
    }
    XCTAssertGreaterThan(answers, 4_000)
    XCTAssertGreaterThan(refusals, 400)
  }

  func testRecords() throws {
    var (answers, refusals) = (0, 0)
    for seed in 0..<60 as Range<UInt64> {
      let n = try check(
        seed: seed, key: { "\($0 % 7) a name that is \($0) long" }, value: { "the value of step \($0)" })
      answers += n.answers
      refusals += n.refusals
    }
    XCTAssertGreaterThan(answers, 4_000)
    XCTAssertGreaterThan(refusals, 400)
  }

  /// A key that rots while leaves split around it: its entry is never moved to where it would not be looked for.
  func testLeavesThatSplitAroundDamage() throws {
    func name(_ i: Int) -> String { "some name number \(1000 + i)" }
    var (kept, stopped) = (0, 0)
    for seed in 0..<60 as Range<UInt64> {
      var random = SeededGenerator(seed: seed)
      let tree = try DurableBTree<String, Int>.create(in: makeHeap(megabytes: 1), number: 3, options: options)
      for i in stride(from: 0, to: 120, by: 4) { try tree.setValue(i, forKey: name(i)) }
      let victim = name(4 * Int.random(in: 0..<30, using: &random))
      var record = Offset.null
      try tree.engine.heap.forEachBlock(tag: .treeRecord) { block in
        let key = UnsafeRawBufferPointer(
          start: tree.engine.region.pointer(to: block.payload + RecordLayout.headerSize),
          count: victim.utf8.count)
        if key.elementsEqual(victim.utf8) { record = block.payload }
      }
      // One of the last two digits: it sorts elsewhere.
      let digit = RecordLayout.headerSize + victim.utf8.count - Int.random(in: 1...2, using: &random)
      try tree.engine.region.withWritable(record + digit, count: 1) {
        $0[0] =
          UInt8(ascii: "0") + (($0[0] - UInt8(ascii: "0")) + UInt8.random(in: 1..<10, using: &random)) % 10
      }
      var model: [Int: Int] = [:]
      for i in (0..<120).shuffled(using: &random) where i % 4 != 0 {
        do throws(NVMError) {
          try tree.setValue(i, forKey: name(i))
          model[i] = i
        } catch {
          XCTAssertEqual(error.code, .corrupt)
          stopped += 1
        }
      }
      XCTAssertThrowsError(try tree.value(forKey: victim), "seed \(seed), \(victim)")
      for i in 0..<120 where i % 4 != 0 {
        do throws(NVMError) {
          let found = try tree.value(forKey: name(i))
          XCTAssertEqual(found, model[i], "seed \(seed), \(name(i))")
          kept += 1
        } catch {
          XCTAssertEqual(error.code, .corrupt)
        }
      }
    }
    XCTAssertGreaterThan(kept, 1_000)
    XCTAssertGreaterThan(stopped, 0)
  }
}

/// Every way to read a tree, against what it should hold.
private final class Reads<Key: DurableKey & Comparable, Value: DurableValue & Equatable> {
  typealias Entry = (key: Key, value: Value)
  let tree: DurableBTree<Key, Value>
  let model: [(Key, Value)]
  let context: String
  var answers = 0
  var refusals = 0

  init(tree: DurableBTree<Key, Value>, model: [(Key, Value)], context: String) {
    self.tree = tree
    self.model = model
    self.context = context
  }

  private func ask<T>(_ what: String, _ wanted: T, _ same: (T, T) -> Bool, _ read: () throws -> T) {
    do {
      let found = try read()
      answers += 1
      XCTAssert(same(found, wanted), "\(context), \(what): \(found) for \(wanted)")
    } catch let error as NVMError where error.code == .corrupt {
      refusals += 1
    } catch {
      XCTFail("\(context), \(what): \(error)")
    }
  }
  private func askEntry(_ what: String, _ wanted: (Key, Value)?, _ read: () throws -> Entry?) {
    ask(what, wanted.map { (key: $0.0, value: $0.1) }, { $0?.key == $1?.key && $0?.value == $1?.value }, read)
  }
  /// All of a range, or its beginning and the reason.
  private func walk(_ what: String, _ wanted: some Sequence<(Key, Value)>, _ range: DurableRange<Key, Value>)
  {
    let wanted = Array(wanted)
    let found = Array(range)
    if range.failure == nil { answers += 1 } else { refusals += 1 }
    let isRight = found.elementsEqual(wanted.prefix(found.count)) { $0.key == $1.0 && $0.value == $1.1 }
    let isWhole = found.count == wanted.count || range.failure?.code == .corrupt
    XCTAssert(isRight && isWhole, "\(context), \(what): \(found)")
  }

  func readAll(_ random: inout SeededGenerator, key: (UInt64) -> Key) {
    askEntry("first", model.first) { try tree.first }
    askEntry("last", model.last) { try tree.last }
    for i in 0..<300 as Range<UInt64> {
      let k = key(i)
      let wanted = model.first { $0.0 == k }?.1
      ask("value of \(k)", wanted, ==) { try tree.value(forKey: k) }
      askEntry("lower bound of \(k)", model.first { $0.0 >= k }) { try tree.lowerBound(k) }
      askEntry("upper bound of \(k)", model.first { $0.0 > k }) { try tree.upperBound(k) }
    }
    for _ in 0..<30 {
      let asked = (0..<40).map { _ in key(UInt64.random(in: 0..<300, using: &random)) }
      ask("values", asked.map { k in model.first { $0.0 == k }?.1 }, ==) { try tree.values(forKeys: asked) }
      let (a, b) = (min(asked[0], asked[1]), max(asked[0], asked[1]))
      do {
        let inside = model.filter { $0.0 >= a && $0.0 < b }
        walk("\(a)..<\(b)", inside, try tree[a..<b])
        walk("\(a)..<\(b) reversed", inside.reversed(), try tree[a..<b].reversed())
        walk("\(a)...", model.filter { $0.0 >= a }, try tree[a...])
        walk("...\(a) reversed", model.filter { $0.0 <= a }.reversed(), try tree[...a].reversed())
      } catch {
        XCTFail("\(context): \(error)")
      }
      let cursor = tree.makeCursor()
      askEntry("cursor at \(a)", model.first { $0.0 >= a }) { try cursor.seek(to: a) }
      guard let at = model.firstIndex(where: { $0.0 >= a }), at > 0, at + 1 < model.count else { continue }
      // Each step that succeeds is right; one that fails leaves the cursor where it was.
      guard (try? cursor.seek(to: a)) != nil else { continue }
      askEntry("back", model[at - 1]) { try cursor.previous() }
      let back = (try? cursor.seek(before: model[at].0)) ?? nil
      if back != nil {
        askEntry("on", model[at]) { try cursor.next() }
      }
    }
    walk("all", model, try! tree[...])
    walk("all reversed", model.reversed(), try! tree[...].reversed())
    // Nor is "it was not there" said of what was.
    for i in stride(from: 0, to: 300, by: 7) as StrideTo<UInt64> {
      let k = key(i)
      ask("removal of \(k)", model.first { $0.0 == k }?.1, ==) { try tree.removeValue(forKey: k) }
    }
  }
}
