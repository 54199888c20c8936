import NVMRegion
import XCTest

/// A crash between any two words of a superblock update: whatever mixture of old and new words reached the
/// medium, the region opens, with the state before or after.
final class SuperblockCrashTests: XCTestCase {
  func testEveryUpdateIsAllOrNothing() throws {
    let medium = TornMedium(size: 1 << 16, seed: .random(in: 0 ... .max))
    let region = try PersistentRegion.inMemory(
      image: nil, size: 1 << 16, maximumSize: 1 << 20, medium: medium)
    let uuid = region.uuid
    var sizes: Set<Int> = [1 << 16]
    var mayBeClean = false
    var seen: Set<String> = []
    medium.check = { image in
      do {
        let reader = try PersistentRegion.inMemory(
          image: image, size: 0, maximumSize: 0, medium: nil, access: .readOnly)
        XCTAssertEqual(reader.uuid, uuid)
        XCTAssertTrue(sizes.contains(reader.size))
        XCTAssertEqual(reader.incarnation, 1)
        if reader.wasCleanlyClosed { XCTAssertTrue(mayBeClean) }
        seen.insert("\(reader.size) \(reader.wasCleanlyClosed)")
        // Opening it for writing mends both copies.
        let writer = try PersistentRegion.inMemory(image: image, size: 0, maximumSize: 0, medium: nil)
        XCTAssertEqual(writer.incarnation, 2)
      } catch {
        XCTFail("seed \(medium.seed): \(error)")
      }
    }
    for size in [1 << 17, 3 << 16] {
      sizes = [region.size, size]
      try region.grow(toAtLeast: size)
      // After both copies nothing takes the update back.
      sizes = [size]
      try region.storeDurable(1, at: region.payloadStart)
    }
    mayBeClean = true
    try region.close()
    XCTAssertGreaterThan(medium.images, 1000)
    XCTAssertEqual(
      seen, ["65536 false", "131072 false", "196608 false", "196608 true"],
      "not all states were met: the test does not test")
  }

  func testOpeningIsAllOrNothing() throws {
    let first = try PersistentRegion.inMemory(image: nil, size: 1 << 16, maximumSize: 1 << 16, medium: nil)
    first.store(5, at: first.payloadStart)
    let image = Array(UnsafeRawBufferPointer(start: first.baseAddress, count: first.size))
    let medium = TornMedium(size: 1 << 16, seed: .random(in: 0 ... .max))
    medium.durable = image
    var incarnations: Set<UInt64> = []
    medium.check = { image in
      do {
        let reader = try PersistentRegion.inMemory(
          image: image, size: 0, maximumSize: 0, medium: nil, access: .readOnly)
        incarnations.insert(reader.incarnation)
        XCTAssertEqual(reader.load(reader.payloadStart), 5)
      } catch {
        XCTFail("seed \(medium.seed): \(error)")
      }
    }
    let region = try image.withUnsafeBytes { (bytes) in
      try PersistentRegion.inMemory(image: bytes, size: 0, maximumSize: 0, medium: medium)
    }
    XCTAssertEqual(incarnations, [1, 2])
    region.abandon()
  }
}

/// A medium that hands, at each fence, images to a check: the durable bytes with any lines, and random words,
/// of those changed since the last fence.
private final class TornMedium: RegionMedium, @unchecked Sendable {
  let seed: UInt64
  var check: ((UnsafeRawBufferPointer) -> Void)?
  var durable: [UInt8]
  private(set) var images = 0
  private var generator: SeededGenerator
  private var base: UnsafeMutableRawPointer?

  init(size: Int, seed: UInt64) {
    durable = Array(repeating: 0, count: size)
    self.seed = seed
    generator = SeededGenerator(seed: seed)
  }

  func attach(base: UnsafeMutableRawPointer, path: String) { self.base = base }
  func store(_ word: UInt64, at p: UnsafeMutableRawPointer) { p.storeBytes(of: word, as: UInt64.self) }
  func storeNontemporal(_ word: UInt64, at p: UnsafeMutableRawPointer) { store(word, at: p) }
  func write(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    p.copyMemory(from: source.baseAddress!, byteCount: source.count)
  }
  func writeNontemporal(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    write(source, at: p)
  }
  func fill(_ byte: UInt8, count: Int, at p: UnsafeMutableRawPointer) {
    for i in 0..<count { p.storeBytes(of: byte, toByteOffset: i, as: UInt8.self) }
  }
  func flush(_ p: UnsafeMutableRawPointer, count: Int) {}
  func order() throws(NVMError) { try fence() }
  func didGrow(to size: Int) { durable += Array(repeating: 0, count: size - durable.count) }

  func fence() throws(NVMError) {
    let memory = UnsafeRawBufferPointer(start: base!, count: durable.count)
    let words = stride(from: 0, to: durable.count, by: 8).filter { at in
      (at..<at + 8).contains { memory[$0] != durable[$0] }
    }
    if check != nil, !words.isEmpty {
      let lines = Set(words.map { $0 / 64 }).sorted()
      XCTAssertLessThanOrEqual(lines.count, 8)
      for subset in 0..<(1 << min(lines.count, 8)) {
        show(words.filter { subset >> lines.firstIndex(of: $0 / 64)! & 1 == 1 }, memory)
      }
      for _ in 0..<200 {
        show(words.filter { _ in Bool.random(using: &generator) }, memory)
      }
    }
    for word in words { for i in word..<word + 8 { durable[i] = memory[i] } }
  }

  private func show(_ words: [Int], _ memory: UnsafeRawBufferPointer) {
    var image = durable
    for word in words { for i in word..<word + 8 { image[i] = memory[i] } }
    images += 1
    image.withUnsafeBytes { check!($0) }
  }
}
