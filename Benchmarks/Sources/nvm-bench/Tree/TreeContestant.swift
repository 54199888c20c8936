import CBench
import Foundation
import NVMBTree
import NVMRegion
import NVMalloc
import PeerTrees

/// A tree of 8-byte keys and values in the competition.
protocol TreeContestant: AnyObject {
  var name: String { get }
  /// Changes made durable together; nil where each is, or none.
  var batch: Int? { get }
  func run(_ batch: bench_batch, _ outcome: inout bench_outcome)
  /// Look-ups or updates, many in one call where the contestant can.
  func runTogether(_ batch: bench_batch, _ outcome: inout bench_outcome)
  func scanAll(_ outcome: inout bench_outcome)
  /// Of the calling thread; nil where they cannot be counted.
  var counts: Counts? { get }
  /// Counting slows it down.
  var countsApart: Bool { get }
  func close()
}

extension TreeContestant {
  func runTogether(_ batch: bench_batch, _ outcome: inout bench_outcome) { run(batch, &outcome) }
}

/// A peer behind its C adapter.
final class PeerTree: TreeContestant {
  let name: String
  let batch: Int?
  private let table: UnsafePointer<bench_tree>
  private let handle: UnsafeMutableRawPointer
  let countsApart: Bool

  init?(
    _ table: UnsafePointer<bench_tree>, directory: String, bytes: Int, perCommit: Int = 1,
    counted: Bool = false
  ) {
    guard let handle = table.pointee.open(directory, bytes, perCommit) else { return nil }
    self.table = table
    self.handle = handle
    countsApart = counted
    name = String(cString: table.pointee.name)
    batch = perCommit > 1 ? perCommit : nil
  }
  func run(_ batch: bench_batch, _ outcome: inout bench_outcome) {
    withUnsafePointer(to: batch) { table.pointee.run(handle, $0, &outcome) }
  }
  func scanAll(_ outcome: inout bench_outcome) { table.pointee.scan_all(handle, &outcome) }
  var counts: Counts? {
    guard countsApart else { return nil }
    let c = bench_pmem_counters()
    return Counts(fences: c.fences, lines: c.lines, bytes: c.bytes)
  }
  func close() { table.pointee.close(handle) }
}

/// Ours: the same loop as `TreeLoop.hpp`, in Swift.
final class OurTree: TreeContestant {
  let name = ours
  let batch: Int? = nil
  let region: PersistentRegion
  let heap: PersistentHeap
  let tree: DurableBTree<UInt64, UInt64>
  private let path: String

  init(directory: String, bytes: Int, options: RegionOptions) throws {
    path = directory + "/tree.nvm"
    unlink(path)
    region = try PersistentRegion.create(at: path, size: bytes, options: options)
    heap = try PersistentHeap.format(region)
    tree = try DurableBTree(in: heap, root: "bench")
  }

  func run(_ batch: bench_batch, _ outcome: inout bench_outcome) {
    if batch.ticks == nil {
      Self.loop(tree, batch, &outcome, timed: false)
    } else {
      Self.loop(tree, batch, &outcome, timed: true)
    }
  }

  @inline(__always)
  private static func loop(
    _ tree: DurableBTree<UInt64, UInt64>, _ batch: bench_batch, _ outcome: inout bench_outcome, timed: Bool
  ) {
    var o = outcome
    let version = UInt64(batch.version)
    for i in 0..<batch.count {
      let key = batch.keys[i]
      let op = if let ops = batch.ops { ops[i] } else { batch.op }
      let began = timed ? bench_ticks() : 0
      do throws(NVMError) {
        switch Int(op) {
        case BENCH_LOOKUP:
          if let v = try tree.value(forKey: key) {
            if bench_is_value(key, v) == 0 { o.wrong &+= 1 }
            o.checksum &+= v
          } else {
            o.wrong &+= 1
          }
        case BENCH_UPDATE, BENCH_INSERT:
          try tree.setValue(bench_value(key, version), forKey: key)
        case BENCH_DELETE:
          if try tree.removeValue(forKey: key) == nil { o.wrong &+= 1 }
        case BENCH_MISS:
          if try tree.value(forKey: key) != nil { o.wrong &+= 1 }
        case BENCH_RMW:
          if let v = try tree.value(forKey: key) {
            if bench_is_value(key, v) == 0 { o.wrong &+= 1 }
            o.checksum &+= v
          } else {
            o.wrong &+= 1
          }
          try tree.setValue(bench_value(key, version), forKey: key)
        default:
          if try !scan(tree, from: key, count: Int(op) &- BENCH_SCAN, &o) { o.wrong &+= 1 }
        }
      } catch {
        o.wrong &+= 1
      }
      if timed { batch.ticks[i] = UInt32(truncatingIfNeeded: bench_ticks() &- began) }
    }
    outcome = o
  }

  /// A thousand to a call.
  func runTogether(_ batch: bench_batch, _ outcome: inout bench_outcome) {
    var at = 0
    while at < batch.count {
      let keys = UnsafeBufferPointer(start: batch.keys + at, count: min(1000, batch.count - at))
      do throws(NVMError) {
        if Int(batch.op) == BENCH_LOOKUP {
          for (key, value) in zip(keys, try tree.values(forKeys: keys)) {
            guard let value, bench_is_value(key, value) != 0 else {
              outcome.wrong &+= 1
              continue
            }
            outcome.checksum &+= value
          }
        } else {
          let version = UInt64(batch.version)
          try tree.updateValues(keys.lazy.map { ($0, bench_value($0, version)) })
        }
      } catch {
        outcome.wrong &+= 1
      }
      at += keys.count
    }
  }

  @inline(__always)
  private static func scan(
    _ tree: DurableBTree<UInt64, UInt64>, from key: UInt64?, count: Int, _ o: inout bench_outcome
  ) throws(NVMError) -> Bool {
    var iterator = try tree.range(from: key, to: nil).makeIterator()
    var left = count
    var last: UInt64 = 0
    var any = false
    while left > 0, let (k, v) = try iterator.nextEntry() {
      if any && k <= last || bench_is_value(k, v) == 0 { o.wrong &+= 1 }
      any = true
      last = k
      o.entries &+= 1
      o.checksum &+= v
      left &-= 1
    }
    return any
  }

  func scanAll(_ outcome: inout bench_outcome) {
    var o = outcome
    do throws(NVMError) {
      _ = try Self.scan(tree, from: nil, count: .max, &o)
    } catch {
      o.wrong &+= 1
    }
    outcome = o
  }

  var counts: Counts? { Counts(region.threadCounters) }
  var countsApart: Bool { false }

  func close() {
    tree.close()
    heap.close()
    try? region.close()
    unlink(path)
  }
}

extension Counts {
  /// An order is a store fence too on cache-line media, so it is counted as one.
  init(_ c: RegionCounters) { self.init(fences: c.fences + c.orders, lines: c.lines, bytes: c.bytes) }
}
