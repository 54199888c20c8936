import CBench
import Foundation
import NVMRegion
import NVMalloc

/// Ours, through one of its interfaces: the same loops as `HeapLoop.hpp`, in Swift, specialised for each of them.
final class OurHeap: HeapContestant {
  /// A style object for each thread.
  private enum Styles {
    case plain([PlainStyle])
    case deferred([DeferredStyle])
    case batch([BatchStyle])
    case place([PlaceStyle])
    case publish([PublishStyle])
  }
  enum Interface {
    case plain, deferred, batch, place, publish
  }

  let name: String
  let batch: Int?
  private let region: PersistentRegion
  private let heap: PersistentHeap
  private let path: String
  private let slots: UnsafeMutableBufferPointer<UInt64>
  private let styles: Styles

  /// - Parameters:
  ///   - size: of the file to begin with.
  ///   - rests: with the default quarantine; else freed blocks are used again at once.
  ///   - limit: MiB that may rest; default: the heap's.
  init(
    directory: String, slots count: Int, size: Int = 64 << 20, interface: Interface = .plain, batch: Int = 1,
    rests: Bool = true, placement: PlacementPolicy = .automatic, limit: Int? = nil, options: RegionOptions
  ) throws {
    let base =
      switch interface {
      case .plain: PlainStyle.name
      case .deferred: DeferredStyle.name
      case .batch: BatchStyle.name
      case .place: PlaceStyle.name
      case .publish: PublishStyle.name
      }
    name =
      base + (batch > 1 ? " ×\(batch)" : "") + (rests ? "" : ", no quarantine")
      + (placement == .leastAllocated ? ", least allocated" : "")
    self.batch = batch > 1 ? batch : nil
    path = directory + "/heap.\(base.filter(\.isLetter))\(batch)\(rests)\(placement)"
    unlink(path)
    region = try PersistentRegion.create(at: path, size: size, options: options)
    var heapOptions = HeapOptions()
    if !rests { heapOptions.quarantine = .none }
    heapOptions.placement = placement
    if let limit { heapOptions.quarantineLimit = limit << 20 }
    let heap = try PersistentHeap.format(region, options: heapOptions)
    self.heap = heap
    slots = .allocate(capacity: count)
    slots.initialize(repeating: 0)
    func threads<Style: HeapStyle>(_: Style.Type) throws -> [Style] {
      let links = try Style.links(heap, count: count)
      return (0..<8).map { _ in Style(heap, links: links, batch: batch) }
    }
    styles =
      switch interface {
      case .plain: .plain(try threads(PlainStyle.self))
      case .deferred: .deferred(try threads(DeferredStyle.self))
      case .batch: .batch(try threads(BatchStyle.self))
      case .place: .place(try threads(PlaceStyle.self))
      case .publish: .publish(try threads(PublishStyle.self))
      }
  }

  @inline(__always)
  private static func release<Style: HeapStyle>(
    _ style: Style, _ region: PersistentRegion, _ slot: Int, _ h: UInt64
  ) -> Bool {
    let isRight = region.pointer(to: Offset(rawValue: h)).load(as: UInt64.self) == bench_tag(h)
    return style.free(slot, h) && isRight
  }
  @inline(__always)
  private static func acquire<Style: HeapStyle>(
    _ style: Style, _ region: PersistentRegion, _ slot: Int, _ size: Int
  ) -> UInt64 {
    let h = style.allocate(slot, size)
    // Not flushed: what is measured is the allocator. The same for every contestant.
    if h != 0 { region.pointer(to: Offset(rawValue: h)).storeBytes(of: bench_tag(h), as: UInt64.self) }
    return h
  }

  func run(
    thread: Int, _ steps: UnsafeBufferPointer<bench_step>, ticks: UnsafeMutablePointer<UInt32>?,
    _ outcome: inout bench_outcome
  ) {
    switch styles {
    case .plain(let s): Self.run(s[thread], region, slots, steps, ticks, &outcome)
    case .deferred(let s): Self.run(s[thread], region, slots, steps, ticks, &outcome)
    case .batch(let s): Self.run(s[thread], region, slots, steps, ticks, &outcome)
    case .place(let s): Self.run(s[thread], region, slots, steps, ticks, &outcome)
    case .publish(let s): Self.run(s[thread], region, slots, steps, ticks, &outcome)
    }
  }
  func produce(
    thread: Int, _ ring: UnsafeMutablePointer<bench_ring>, size: Int, count: Int,
    _ outcome: inout bench_outcome
  ) {
    switch styles {
    case .plain(let s): Self.produce(s[thread], region, ring, size, count, &outcome)
    case .deferred(let s): Self.produce(s[thread], region, ring, size, count, &outcome)
    case .batch(let s): Self.produce(s[thread], region, ring, size, count, &outcome)
    case .place(let s): Self.produce(s[thread], region, ring, size, count, &outcome)
    case .publish(let s): Self.produce(s[thread], region, ring, size, count, &outcome)
    }
  }
  func consume(
    thread: Int, _ ring: UnsafeMutablePointer<bench_ring>, count: Int, _ outcome: inout bench_outcome
  ) {
    switch styles {
    case .plain(let s): Self.consume(s[thread], region, ring, count, &outcome)
    case .deferred(let s): Self.consume(s[thread], region, ring, count, &outcome)
    case .batch(let s): Self.consume(s[thread], region, ring, count, &outcome)
    case .place(let s): Self.consume(s[thread], region, ring, count, &outcome)
    case .publish(let s): Self.consume(s[thread], region, ring, count, &outcome)
    }
  }

  @inline(__always)
  private static func run<Style: HeapStyle>(
    _ style: Style, _ region: PersistentRegion, _ slots: UnsafeMutableBufferPointer<UInt64>,
    _ steps: UnsafeBufferPointer<bench_step>, _ ticks: UnsafeMutablePointer<UInt32>?,
    _ outcome: inout bench_outcome
  ) {
    var wrong: UInt64 = 0
    for i in 0..<steps.count {
      let step = steps[i]
      let began = ticks == nil ? 0 : bench_ticks()
      let slot = Int(step.slot)
      if step.size == 0 {
        if !release(style, region, slot, slots[slot]) { wrong &+= 1 }
        slots[slot] = 0
      } else {
        slots[slot] = acquire(style, region, slot, Int(step.size))
        if slots[slot] == 0 { wrong &+= 1 }
      }
      if let ticks { ticks[i] = UInt32(truncatingIfNeeded: bench_ticks() &- began) }
    }
    if !style.settle() { wrong &+= 1 }
    outcome.wrong &+= wrong
  }
  @inline(__always)
  private static func produce<Style: HeapStyle>(
    _ style: Style, _ region: PersistentRegion, _ ring: UnsafeMutablePointer<bench_ring>, _ size: Int,
    _ count: Int,
    _ outcome: inout bench_outcome
  ) {
    for i in 0..<count {
      let h = acquire(style, region, i & 2047, size)
      // Durable before it is handed over.
      if h == 0 || !style.settle() { outcome.wrong &+= 1 }
      bench_ring_push(ring, h)
    }
  }
  @inline(__always)
  private static func consume<Style: HeapStyle>(
    _ style: Style, _ region: PersistentRegion, _ ring: UnsafeMutablePointer<bench_ring>, _ count: Int,
    _ outcome: inout bench_outcome
  ) {
    for i in 0..<count {
      let h = bench_ring_pop(ring)
      if h == 0 || !release(style, region, i & 2047, h) { outcome.wrong &+= 1 }
    }
    if !style.settle() { outcome.wrong &+= 1 }
  }

  /// What is in use by live or resting blocks, slabs' free room included, and the tables.
  var footprint: Int {
    let s = heap.statistics
    return s.totalBytes - s.freeExtentBytes
  }
  /// Where the region was opened with `countsWear`.
  var wear: LineWear? { region.wear }
  func address(ofSlot slot: Int) -> UInt64 { slots[slot] }
  var counts: Counts? { Counts(region.threadCounters) }
  var countsApart: Bool { false }
  func close() {
    heap.close()
    try? region.close()
    unlink(path)
    unlink(path + ".wear")
    slots.deallocate()
  }
}
