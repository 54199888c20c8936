import Foundation
import NVMBTree
import XCTest

private struct Dense: DurableStruct, Equatable { var a: UInt64, b: UInt32, c: UInt32 }
private struct Small: DurableStruct, Equatable { var a: UInt8, b: UInt16, c: Bool }
private struct Tiny: DurableStruct, Equatable {
  var a: UInt8
  static let durableVersion: UInt32 = 3
}
private struct Empty: DurableStruct, Equatable {}
private struct Inner: BitwiseCopyable, Equatable { var a: UInt8, b: UInt32, c: Bool }
private struct Holes: DurableStruct, Equatable {
  var a: Int8
  var inner: Inner
  var pair: (UInt8, UInt16)
  var d: Double
  var last: UInt8
  static func == (a: Holes, b: Holes) -> Bool {
    a.a == b.a && a.inner == b.inner && a.pair == b.pair && a.d == b.d && a.last == b.last
  }
}
private struct Generic<T: BitwiseCopyable & Sendable>: DurableStruct { var flag: UInt8, value: T }
private enum Color: UInt8, BitwiseCopyable { case red, green }
private struct Mixed: DurableStruct {
  var x: Int64?
  var color: Color
  var y: Int32
  var z: (SIMD2<Float>, StaticBool)
}
private struct StaticBool: BitwiseCopyable { var value: Bool }

final class CodingStructTests: XCTestCase {
  /// A value in memory that held `filler` before, so that its holes hold `filler` where nothing clears them.
  private func dirty<T: BitwiseCopyable>(_ filler: UInt8, _ make: (UnsafeMutablePointer<T>) -> Void)
    -> [UInt8]
  {
    let raw = UnsafeMutableRawPointer.allocate(
      byteCount: MemoryLayout<T>.stride, alignment: MemoryLayout<T>.alignment)
    defer { raw.deallocate() }
    raw.initializeMemory(as: UInt8.self, repeating: filler, count: MemoryLayout<T>.stride)
    make(raw.assumingMemoryBound(to: T.self))
    return [UInt8](UnsafeRawBufferPointer(start: raw, count: MemoryLayout<T>.size))
  }

  func testFormsAndNames() {
    XCTAssertEqual(Dense.durableValueForm, .bytes)
    XCTAssertEqual(Small.durableValueForm, .word)
    XCTAssertEqual(Dense.durableTypeName, "Dense{size 16, stride 16, version 1}")
    XCTAssertEqual(Tiny.durableTypeName, "Tiny{size 1, stride 1, version 3}")
    XCTAssertNotEqual(Generic<Int8>.durableTypeName, Generic<UInt8>.durableTypeName)
  }

  func testRoundTrips() throws {
    let dense = Dense(a: .max, b: 1, c: 2)
    XCTAssertEqual(try Dense.decodedValue(encodedValue(dense)), dense)
    let small = Small(a: 1, b: 2, c: true)
    XCTAssertEqual(Small(valueWord: small.valueWord), small)
    XCTAssertEqual(try Small.decodedValue(encodedValue(small)), small)
    XCTAssertEqual(Tiny(valueWord: Tiny(a: 9).valueWord), Tiny(a: 9))
    XCTAssertEqual(Empty().valueWord, 0)
    XCTAssertEqual(Empty(valueWord: 0), Empty())
    XCTAssertNil(Empty(valueWord: 1))
    let holes = Holes(a: -1, inner: Inner(a: 1, b: 2, c: true), pair: (3, 4), d: .pi, last: 5)
    XCTAssertEqual(try Holes.decodedValue(encodedValue(holes)), holes)
  }

  func testEveryHoleIsZeroOnTheMedium() throws {
    // Offsets as the compiler lays them out: a 0, inner 4 (a 4, b 8, c 12), pair 14 (14, 16), d 24, last 32.
    XCTAssertEqual(MemoryLayout<Holes>.offset(of: \.inner), 4)
    XCTAssertEqual(MemoryLayout<Holes>.offset(of: \.pair), 14)
    let data: Set<Int> = Set([0, 4, 8, 9, 10, 11, 12, 14, 16, 17, 24, 25, 26, 27, 28, 29, 30, 31, 32])
    for filler: UInt8 in [0xFF, 0xA5] {
      var stored: [UInt8] = []
      let memory: [UInt8] = dirty(filler) { (value: UnsafeMutablePointer<Holes>) in
        value.pointee.a = -1
        value.pointee.inner.a = 0xFF
        value.pointee.inner.b = .max
        value.pointee.inner.c = true
        value.pointee.pair.0 = 0xFF
        value.pointee.pair.1 = .max
        value.pointee.d = Double(bitPattern: .max)
        value.pointee.last = 0xFF
        stored = (try? encodedValue(value.pointee)) ?? []
      }
      XCTAssertEqual(memory[1], filler, "the test must begin with dirty holes")
      XCTAssertEqual(stored.count, MemoryLayout<Holes>.size)
      for index in stored.indices {
        let expected: UInt8 = !data.contains(index) ? 0 : index == 12 ? 1 : 0xFF
        XCTAssertEqual(stored[index], expected, "byte \(index), filler \(filler)")
      }
    }
  }

  func testHolesOfAWordAreZero() {
    var words: Set<UInt64> = []
    for filler: UInt8 in [0, 0xFF] {
      _ = dirty(filler) { (value: UnsafeMutablePointer<Small>) in
        value.pointee.a = 1
        value.pointee.b = 2
        value.pointee.c = true
        words.insert(value.pointee.valueWord)
      }
    }
    XCTAssertEqual(words, [0x01_0002_0001])
    XCTAssertNil(Small(valueWord: 0x01_0002_FF01), "a hole that is not zero is not ours")
    XCTAssertNil(Small(valueWord: 1 << 63))
  }

  func testGenericsTailsAndWhatIsNotSeenThrough() throws {
    let stored = try encodedValue(Generic(flag: 1, value: Inner(a: 2, b: 3, c: false)))
    XCTAssertEqual(stored, [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0])
    let mixed = Mixed(x: -1, color: .green, y: 7, z: (SIMD2(1, 2), StaticBool(value: true)))
    let back = try XCTUnwrap(try Mixed.decodedValue(encodedValue(mixed)))
    XCTAssertTrue(back.x == -1 && back.color == .green && back.y == 7 && back.z.0 == SIMD2(1, 2))
    XCTAssertTrue(back.z.1.value)
    let none = Mixed(x: nil, color: .red, y: 7, z: (SIMD2(1, 2), StaticBool(value: true)))
    XCTAssertNil(try XCTUnwrap(try Mixed.decodedValue(encodedValue(none))).x)
    #if canImport(Glibc)
      // A type from C is data as a whole: nothing in it is zeroed.
      var lock = flock()
      lock.l_type = -1
      lock.l_start = .max
      lock.l_pid = -1
      let fromC = try encodedValue(Generic(flag: 1, value: lock))
      let start = try XCTUnwrap(MemoryLayout<flock>.offset(of: \.l_start)) + 8
      XCTAssertEqual(Array(fromC[0..<10]), [1, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF])
      XCTAssertEqual(Array(fromC[start..<(start + 8)]), [UInt8](repeating: 0xFF, count: 7) + [0x7F])
    #endif
    let array = Generic<InlineArray<3, UInt16>>(flag: 1, value: [2, 3, 4])
    XCTAssertEqual(try encodedValue(array), [1, 0, 2, 0, 3, 0, 4, 0])
  }

  func testBrokenEncodings() throws {
    XCTAssertNil(Dense.decodedValue([]))
    XCTAssertNil(Dense.decodedValue([UInt8](repeating: 0, count: 15)))
    XCTAssertNil(Dense.decodedValue([UInt8](repeating: 0, count: 17)))
    XCTAssertNil(Small.decodedValue([0, 0, 0, 0, 0]))
    XCTAssertNil(Small(valueWord: 0x02_0002_0001), "a Bool is 0 or 1")
    var bytes = try encodedValue(Holes(a: 0, inner: Inner(a: 0, b: 0, c: true), pair: (0, 0), d: 0, last: 0))
    bytes[12] = 0x80
    XCTAssertNil(Holes.decodedValue(bytes))
  }

  func testLayoutsAreFoundFromManyThreadsAtOnce() {
    let failures = UnsafeMutablePointer<Int>.allocate(capacity: 8)
    failures.initialize(repeating: 0, count: 8)
    defer { failures.deallocate() }
    nonisolated(unsafe) let shared = failures
    DispatchQueue.concurrentPerform(iterations: 8) { thread in
      for round in 0..<500 {
        let value = Generic<UInt32>(flag: 1, value: UInt32(round))
        let other = Generic<Generic<UInt16>>(flag: 1, value: .init(flag: 2, value: 3))
        if Generic<UInt32>(valueWord: value.valueWord)?.value != UInt32(round) { shared[thread] += 1 }
        if other.valueWord != 0x0003_0002_0001 { shared[thread] += 1 }
      }
    }
    XCTAssertEqual((0..<8).map { failures[$0] }.reduce(0, +), 0)
  }
}
