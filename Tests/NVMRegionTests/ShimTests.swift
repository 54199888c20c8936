import CNVM
import Foundation
import XCTest

/// The C shims: checksums, matching, thread slots.
final class ShimTests: XCTestCase {
  private func crc(_ bytes: [UInt8], seed: UInt32 = 0) -> UInt32 {
    bytes.withUnsafeBytes { nvm_crc32c(seed, $0.baseAddress ?? UnsafeRawPointer(bitPattern: 8)!, $0.count) }
  }

  func testCRC32CKnownValues() {
    // RFC 3720, B.4, and the check value of the CRC catalogue.
    XCTAssertEqual(crc(Array("123456789".utf8)), 0xE306_9283)
    XCTAssertEqual(crc([UInt8](repeating: 0, count: 32)), 0x8A91_36AA)
    XCTAssertEqual(crc([UInt8](repeating: 0xFF, count: 32)), 0x62A8_AB43)
    XCTAssertEqual(crc(Array(0..<32)), 0x46DD_794E)
    XCTAssertEqual(crc(Array((0..<32).reversed())), 0x113F_DB5C)
    XCTAssertEqual(crc([]), 0)
  }

  func testCRC32CAgainstBitwiseReference() {
    var generator = SeededGenerator(seed: .random(in: 0 ... .max))
    for count in 0..<200 {
      let bytes = (0..<count + 3).map { _ in UInt8.random(in: 0 ... .max, using: &generator) }
      var reference: UInt32 = ~0
      for byte in bytes.dropFirst(3) {
        reference ^= UInt32(byte)
        for _ in 0..<8 { reference = reference & 1 == 1 ? reference >> 1 ^ 0x82F6_3B78 : reference >> 1 }
      }
      // From an odd address too; and in two parts, the first seeding the second.
      let whole = bytes.withUnsafeBytes { nvm_crc32c(0, $0.baseAddress! + 3, count) }
      XCTAssertEqual(whole, ~reference, "seed \(generator.seed)")
      let cut = count / 3
      let first = bytes.withUnsafeBytes { nvm_crc32c(0, $0.baseAddress! + 3, cut) }
      XCTAssertEqual(
        bytes.withUnsafeBytes { nvm_crc32c(first, $0.baseAddress! + 3 + cut, count - cut) }, whole)
    }
  }

  func testMatch32() {
    var generator = SeededGenerator(seed: .random(in: 0 ... .max))
    for round in 0..<2000 {
      // Few different bytes, so that there are matches; at any alignment.
      let bytes = (0..<40).map { _ in UInt8.random(in: 0...3, using: &generator) &* 85 }
      let shift = round % 8
      for needle in [0, 85, 170, 255, 7] as [UInt8] {
        var expected: UInt32 = 0
        for i in 0..<32 where bytes[shift + i] == needle { expected |= 1 << i }
        let found = bytes.withUnsafeBytes { nvm_match32($0.baseAddress! + shift, needle) }
        XCTAssertEqual(found, expected, "seed \(generator.seed)")
      }
    }
  }

  /// A change of one bit of any input changes the 64-bit mix always, and the 32-bit fold but for chance.
  func testMixAndFoldSeeEveryBit() {
    var generator = SeededGenerator(seed: .random(in: 0 ... .max))
    var collisions = 0
    var changed = 0
    let rounds = 500
    for _ in 0..<rounds {
      let words = (0..<3).map { _ in generator.next() }
      let mix = nvm_mix2(words[0], words[1], words[2])
      let fold = nvm_fold32(mix)
      for bit in 0..<192 {
        var other = words
        other[bit / 64] ^= 1 << UInt64(bit % 64)
        let otherMix = nvm_mix2(other[0], other[1], other[2])
        XCTAssertNotEqual(otherMix, mix, "bit \(bit), seed \(generator.seed)")
        let otherFold = nvm_fold32(otherMix)
        if otherFold == fold { collisions += 1 }
        changed += (otherFold ^ fold).nonzeroBitCount
      }
    }
    // About 96,000 pairs at 2^-32 each.
    XCTAssertLessThanOrEqual(collisions, 1, "seed \(generator.seed)")
    let average = Double(changed) / Double(rounds * 192)
    XCTAssertEqual(average, 16, accuracy: 0.5, "bits changed of 32, seed \(generator.seed)")
  }

  func testHashOfBytesSeesEveryBitAndTheLength() {
    var generator = SeededGenerator(seed: .random(in: 0 ... .max))
    func hash(_ bytes: [UInt8], _ seed: UInt64 = 5) -> UInt64 {
      bytes.withUnsafeBytes {
        nvm_hash_bytes(seed, $0.baseAddress ?? UnsafeRawPointer(bitPattern: 8)!, $0.count)
      }
    }
    for count in [0, 1, 7, 8, 15, 16, 17, 31, 32, 33, 100] {
      let bytes = (0..<count).map { _ in UInt8.random(in: 0 ... .max, using: &generator) }
      let value = hash(bytes)
      for bit in 0..<count * 8 {
        var other = bytes
        other[bit / 8] ^= 1 << (bit % 8)
        XCTAssertNotEqual(hash(other), value, "seed \(generator.seed)")
      }
      XCTAssertNotEqual(hash(bytes + [0]), value)
      XCTAssertNotEqual(hash(bytes, 6), value)
    }
  }

  func testFingerprintsSpread() {
    var counts = [Int](repeating: 0, count: 256)
    for i in 0..<25_600 { counts[Int(nvm_fingerprint(UInt64(i)))] += 1 }
    XCTAssertGreaterThan(counts.min()!, 40)
    XCTAssertLessThan(counts.max()!, 200)
  }

  func testThreadSlotsAreDistinctAndReused() {
    let slots = Collected()
    let barrier = Barrier(40)
    for _ in 0..<30 {
      let these = Collected()
      onThreads(40) { _ in
        let slot = nvm_thread_slot()
        XCTAssertEqual(nvm_thread_slot(), slot)
        these.add(slot)
        slots.add(slot)
        // All alive at once.
        barrier.wait()
      }
      XCTAssertEqual(Set(these.values).count, 40)
      XCTAssertFalse(these.values.contains(0), "slot 0 while others are free")
    }
    // 1,200 threads made do with few slots (threads may end a little after they are waited for).
    XCTAssertLessThan(Set(slots.values).count, 400)
    XCTAssertTrue(slots.values.allSatisfy { (1..<NVM_THREAD_SLOTS).contains($0) })
  }

  func testThreadsBeyondTheLastSlotShareSlotZero() {
    let count = Int(NVM_THREAD_SLOTS) + 40
    let slots = Collected()
    let barrier = Barrier(count)
    onThreads(count) { _ in
      slots.add(nvm_thread_slot())
      barrier.wait()
    }
    let values = slots.values
    let own = values.filter { $0 != 0 }
    XCTAssertEqual(Set(own).count, own.count, "a slot was given to two living threads")
    XCTAssertGreaterThanOrEqual(values.count - own.count, 40)
  }

  func testFlushAndFenceTakeAnyRange() {
    let p = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 64)
    defer { p.deallocate() }
    p.initializeMemory(as: UInt8.self, repeating: 3, count: 4096)
    for (at, count) in [(0, 0), (0, 1), (63, 2), (64, 64), (1, 4095)] { nvm_flush_range(p + at, count) }
    nvm_store_nontemporal(p + 8, 0x0102_0304_0506_0708)
    nvm_store_fence()
    XCTAssertEqual(nvm_load_acquire(p + 8), 0x0102_0304_0506_0708)
    XCTAssertEqual(nvm_load_acquire(p), 0x0303_0303_0303_0303)
    XCTAssertTrue(nvm_compare_exchange(p, 0x0303_0303_0303_0303, 1))
    XCTAssertFalse(nvm_compare_exchange(p, 0x0303_0303_0303_0303, 2))
    XCTAssertEqual(nvm_fetch_add_acqrel(p, 5), 1)
    XCTAssertEqual(nvm_exchange_acqrel(p, 9), 6)
    XCTAssertEqual(nvm_load_relaxed(p), 9)
  }
}

/// Values gathered from several threads.
private final class Collected: @unchecked Sendable {
  private let lock = NSLock()
  private var gathered: [Int32] = []
  func add(_ value: Int32) { lock.withLock { gathered.append(value) } }
  var values: [Int32] { lock.withLock { gathered } }
}
