import CBench
import Foundation
import NVMRegion
import NVMalloc

/// Ours, through one of its interfaces: the same loops as `HeapLoop.hpp`, in Swift.
final class OurHeap<Style: HeapStyle>: HeapContestant {
  let name: String
  let batch: Int?
  private let region: PersistentRegion
  private let heap: PersistentHeap
  private let path: String
  private let slots: UnsafeMutableBufferPointer<UInt64>
  private let threads: [Style]

  init(directory: String, slots count: Int, batch: Int, options: RegionOptions) throws {
    name = Style.name + (batch > 1 ? " ×\(batch)" : "")
    self.batch = batch > 1 ? batch : nil
    path = directory + "/heap.\(Style.name.filter(\.isLetter))\(batch)"
    unlink(path)
    region = try PersistentRegion.create(at: path, size: 64 << 20, options: options)
    heap = try PersistentHeap.format(region)
    slots = .allocate(capacity: count)
    slots.initialize(repeating: 0)
    let links = try Style.links(heap, count: count)
    var threads: [Style] = []
    for _ in 0..<8 { threads.append(Style(heap, links: links, batch: batch)) }
    self.threads = threads
  }

  @inline(__always)
  private static func release(_ style: Style, _ region: PersistentRegion, _ slot: Int, _ h: UInt64) -> Bool {
    let isRight = region.pointer(to: Offset(rawValue: h)).load(as: UInt64.self) == bench_tag(h)
    return style.free(slot, h) && isRight
  }
  @inline(__always)
  private static func acquire(_ style: Style, _ region: PersistentRegion, _ slot: Int, _ size: Int) -> UInt64 {
    let h = style.allocate(slot, size)
    // Not flushed: what is measured is the allocator. The same for every contestant.
    if h != 0 { region.pointer(to: Offset(rawValue: h)).storeBytes(of: bench_tag(h), as: UInt64.self) }
    return h
  }

  func run(
    thread: Int, _ steps: UnsafeBufferPointer<bench_step>, ticks: UnsafeMutablePointer<UInt32>?,
    _ outcome: inout bench_outcome
  ) {
    let style = threads[thread]
    var wrong: UInt64 = 0
    for i in 0..<steps.count {
      let step = steps[i]
      let began = ticks == nil ? 0 : bench_ticks()
      let slot = Int(step.slot)
      if step.size == 0 {
        if !Self.release(style, region, slot, slots[slot]) { wrong &+= 1 }
        slots[slot] = 0
      } else {
        slots[slot] = Self.acquire(style, region, slot, Int(step.size))
        if slots[slot] == 0 { wrong &+= 1 }
      }
      if let ticks { ticks[i] = UInt32(truncatingIfNeeded: bench_ticks() &- began) }
    }
    if !style.settle() { wrong &+= 1 }
    outcome.wrong &+= wrong
  }
  func produce(thread: Int, _ ring: UnsafeMutablePointer<bench_ring>, size: Int, count: Int, _ outcome: inout bench_outcome) {
    let style = threads[thread]
    for i in 0..<count {
      let h = Self.acquire(style, region, i & 2047, size)
      if h == 0 || !style.settle() { outcome.wrong &+= 1 }
      bench_ring_push(ring, h)
    }
  }
  func consume(thread: Int, _ ring: UnsafeMutablePointer<bench_ring>, count: Int, _ outcome: inout bench_outcome) {
    let style = threads[thread]
    for i in 0..<count {
      let h = bench_ring_pop(ring)
      if h == 0 || !Self.release(style, region, i & 2047, h) { outcome.wrong &+= 1 }
    }
    if !style.settle() { outcome.wrong &+= 1 }
  }

  /// What is in use by live or resting blocks, slabs' free room included, and the tables.
  var footprint: Int {
    let s = heap.statistics
    return s.totalBytes - s.freeExtentBytes
  }
  func address(ofSlot slot: Int) -> UInt64 { slots[slot] }
  var counts: Counts? { Counts(region.threadCounters) }
  func close() {
    heap.close()
    try? region.close()
    unlink(path)
    slots.deallocate()
  }
}
