import CNVM
import XCTest

@testable import NVMBTree

/// Descents through one inner node, whatever its separators are like, against a plain count.
final class InnerGuideTests: XCTestCase {
  private let memory = UnsafeMutableRawPointer.allocate(byteCount: 2 * InnerNode.size, alignment: 64)
  private let tails = UnsafeMutableRawPointer.allocate(byteCount: 2 * InnerNode.tailSize, alignment: 64)
  private let locks = UnsafeMutableRawPointer.allocate(byteCount: 128 * 8, alignment: 64)
  private let root = UnsafeMutableRawPointer.allocate(byteCount: 8, alignment: 8)

  override func tearDown() {
    for part in [memory, tails, locks, root] { part.deallocate() }
  }

  /// Node 1, the lowest and only one, with child i = leaf i.
  private func makeNode() -> InnerNode {
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: 2 * InnerNode.size)
    tails.initializeMemory(as: UInt8.self, repeating: 0, count: 2 * InnerNode.tailSize)
    locks.initializeMemory(as: UInt8.self, repeating: 0, count: 128 * 8)
    nvm_store_release(root, 1 << 32 | 1)
    let inner = InnerNode(base: memory + InnerNode.size, tails: tails + InnerNode.tailSize)
    inner.initialize()
    return inner
  }

  private func check(_ heads: [UInt64], _ keys: [UInt64], _ context: String) {
    for key in keys {
      let wanted = heads.count { $0 <= key }
      let best = nvm_descend(root, memory, locks, locks, key)
      let plain = nvm_descend_by_heads(root, memory, locks, locks, key)
      XCTAssertEqual(best.leaf, UInt64(wanted), "\(context): \(key) among \(heads)")
      XCTAssertEqual(plain.leaf, UInt64(wanted), "\(context): \(key) among \(heads)")
      XCTAssertEqual(best.version, 0)
      XCTAssertEqual(nvm_inner_child(memory + InnerNode.size, key), UInt64(wanted), "\(context): \(key)")
    }
  }

  /// Keys around each head, and others.
  private func keys(_ heads: [UInt64], _ random: inout SeededGenerator) -> [UInt64] {
    var keys: [UInt64] = [0, 1, .max, .max - 1, 1 << 63]
    for head in heads {
      keys += [head &- 1, head, head &+ 1]
      // The same 16 bits, or those beside them.
      keys += (0..<64).map { head ^ 1 << $0 }
    }
    keys += (0..<100).map { _ in UInt64.random(in: 0 ... .max, using: &random) }
    return keys
  }

  func testOneInsertAfterTheOther() throws {
    var random = SeededGenerator(seed: 3)
    let forms: [(String, (inout SeededGenerator) -> UInt64)] = [
      (
        "of all sizes", { UInt64.random(in: 0 ... .max, using: &$0) >> UInt64.random(in: 0..<64, using: &$0) }
      ),
      ("spread", { UInt64.random(in: 0 ... .max, using: &$0) }),
      ("neighbours", { 1 << 40 + UInt64.random(in: 0..<100, using: &$0) }),
      ("clusters", { UInt64.random(in: 0..<3, using: &$0) << 61 | UInt64.random(in: 0..<50, using: &$0) }),
      ("at the end", { .max - UInt64.random(in: 0..<200, using: &$0) }),
      ("at the beginning", { UInt64.random(in: 0..<200, using: &$0) }),
      ("17 bits", { UInt64.random(in: 0..<1 << 17, using: &$0) << 20 }),
    ]
    for (name, make) in forms {
      let inner = makeNode()
      inner.lock()
      inner.setChild(0, 0)
      inner.unlock()
      nvm_store_relaxed(inner.version, 0)
      var heads: [UInt64] = []
      check(heads, keys(heads, &random), name)
      while heads.count < InnerNode.capacity {
        let head = make(&random)
        // Trees of words have each separator once, those of long keys have heads that tie.
        if name != "neighbours", heads.contains(head) { continue }
        let i = heads.count { $0 <= head }
        heads.insert(head, at: i)
        inner.lock()
        inner.insert(at: i, head: head, tail: nil, child: 0, keysAreBytes: false)
        for child in 0...heads.count { inner.setChild(child, UInt32(child)) }
        inner.unlock()
        guard heads.count < 4 || heads.count % 15 == 0 || heads.count > 77 else { continue }
        check(heads, keys(heads, &random), name)
      }
      while heads.count > 0 {
        let i = Int.random(in: 0..<heads.count, using: &random)
        heads.remove(at: i)
        inner.lock()
        inner.remove(separator: i, child: i)
        for child in 0...heads.count { inner.setChild(child, UInt32(child)) }
        inner.unlock()
        guard heads.count < 4 || heads.count % 15 == 0 || heads.count > 77 else { continue }
        check(heads, keys(heads, &random), name)
      }
    }
  }

  func testAWriterSendsReadersBack() {
    let inner = makeNode()
    inner.lock()
    XCTAssertEqual(nvm_descend(root, memory, locks, locks, 5).version, UInt64(NVM_NO_PLACE))
    XCTAssertEqual(nvm_descend_by_heads(root, memory, locks, locks, 5).version, UInt64(NVM_NO_PLACE))
    inner.unlock()
    XCTAssertEqual(nvm_descend(root, memory, locks, locks, 5).version, 0)
  }
}
