import CBench
import Foundation
import PeerHeaps

/// An allocator in the competition. Handles and slots are its own business.
protocol HeapContestant: AnyObject {
  var name: String { get }
  var batch: Int? { get }
  /// Whether blocks are made for links that lie in persistent memory.
  func run(
    thread: Int, _ steps: UnsafeBufferPointer<bench_step>, ticks: UnsafeMutablePointer<UInt32>?,
    _ outcome: inout bench_outcome)
  func produce(
    thread: Int, _ ring: UnsafeMutablePointer<bench_ring>, size: Int, count: Int,
    _ outcome: inout bench_outcome)
  func consume(
    thread: Int, _ ring: UnsafeMutablePointer<bench_ring>, count: Int, _ outcome: inout bench_outcome)
  var footprint: Int { get }
  func address(ofSlot slot: Int) -> UInt64
  /// Of the calling thread.
  var counts: Counts? { get }
  /// Counting slows it down.
  var countsApart: Bool { get }
  func close()
}

final class PeerHeap: HeapContestant {
  let name: String
  let batch: Int?
  private let table: UnsafePointer<bench_heap>
  private let handle: UnsafeMutableRawPointer
  let countsApart: Bool

  init?(
    _ table: UnsafePointer<bench_heap>, directory: String, bytes: Int, slots: Int, batch: Int, counted: Bool
  ) {
    guard let handle = table.pointee.open(directory, bytes, slots, batch) else { return nil }
    self.table = table
    self.handle = handle
    countsApart = counted
    name = String(cString: table.pointee.name) + (batch > 1 ? " ×\(batch)" : "")
    self.batch = batch > 1 ? batch : nil
  }
  func run(
    thread: Int, _ steps: UnsafeBufferPointer<bench_step>, ticks: UnsafeMutablePointer<UInt32>?,
    _ outcome: inout bench_outcome
  ) { table.pointee.run(handle, UInt32(thread), steps.baseAddress, steps.count, ticks, &outcome) }
  func produce(
    thread: Int, _ ring: UnsafeMutablePointer<bench_ring>, size: Int, count: Int,
    _ outcome: inout bench_outcome
  ) {
    table.pointee.produce(handle, UInt32(thread), ring, size, count, &outcome)
  }
  func consume(
    thread: Int, _ ring: UnsafeMutablePointer<bench_ring>, count: Int, _ outcome: inout bench_outcome
  ) {
    table.pointee.consume(handle, UInt32(thread), ring, count, &outcome)
  }
  var footprint: Int { table.pointee.footprint(handle) }
  func address(ofSlot slot: Int) -> UInt64 { table.pointee.address(handle, UInt32(slot)) }
  var counts: Counts? {
    guard countsApart else { return nil }
    let c = bench_pmem_counters()
    return Counts(fences: c.fences, lines: c.lines, bytes: c.bytes)
  }
  func close() { table.pointee.close(handle) }
}
