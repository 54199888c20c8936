import CBench
import NVMRegion
import NVMalloc

/// One of the heap's interfaces, for one thread. Zero and false are failure.
protocol HeapStyle: AnyObject {
  static var name: String { get }
  /// Where the slots' links lie, for interfaces that link.
  static func links(_ heap: PersistentHeap, count: Int) throws -> Offset
  init(_ heap: PersistentHeap, links: Offset, batch: Int)
  func allocate(_ slot: Int, _ size: Int) -> UInt64
  func free(_ slot: Int, _ handle: UInt64) -> Bool
  /// Makes durable what waits.
  func settle() -> Bool
}

/// `allocate` and `deallocate`, each durable on return.
final class PlainStyle: HeapStyle {
  static var name: String { ours }
  static func links(_ heap: PersistentHeap, count: Int) throws -> Offset { Offset(0) }
  private let heap: PersistentHeap
  init(_ heap: PersistentHeap, links: Offset, batch: Int) { self.heap = heap }
  @inline(__always) func allocate(_ slot: Int, _ size: Int) -> UInt64 {
    do throws(NVMError) { return try heap.allocate(byteCount: size).rawValue } catch { return 0 }
  }
  @inline(__always) func free(_ slot: Int, _ handle: UInt64) -> Bool {
    do throws(NVMError) {
      try heap.deallocate(Offset(rawValue: handle))
      return true
    } catch { return false }
  }
  @inline(__always) func settle() -> Bool { true }
}

/// `.deferred` and one fence for every `batch`.
final class DeferredStyle: HeapStyle {
  static var name: String { ours + " deferred" }
  static func links(_ heap: PersistentHeap, count: Int) throws -> Offset { Offset(0) }
  private let heap: PersistentHeap
  private let batch: Int
  private var waiting = 0
  init(_ heap: PersistentHeap, links: Offset, batch: Int) {
    self.heap = heap
    self.batch = batch
  }
  private func changed() -> Bool {
    waiting &+= 1
    return waiting < batch || settle()
  }
  func allocate(_ slot: Int, _ size: Int) -> UInt64 {
    do throws(NVMError) {
      let h = try heap.allocate(byteCount: size, durability: .deferred)
      return changed() ? h.rawValue : 0
    } catch { return 0 }
  }
  func free(_ slot: Int, _ handle: UInt64) -> Bool {
    do throws(NVMError) {
      try heap.deallocate(Offset(rawValue: handle), durability: .deferred)
      return changed()
    } catch { return false }
  }
  func settle() -> Bool {
    waiting = 0
    do throws(NVMError) {
      try heap.region.fence()
      return true
    } catch { return false }
  }
}

/// `allocate`, durable on return, and frees `batch` at a time: `deallocate(contentsOf:)`.
final class BatchStyle: HeapStyle {
  static var name: String { ours + " free" }
  static func links(_ heap: PersistentHeap, count: Int) throws -> Offset { Offset(0) }
  private let heap: PersistentHeap
  private let batch: Int
  private let doomed: UnsafeMutablePointer<Offset>
  private var count = 0
  init(_ heap: PersistentHeap, links: Offset, batch: Int) {
    self.heap = heap
    self.batch = batch
    doomed = .allocate(capacity: batch)
  }
  deinit { doomed.deallocate() }
  @inline(__always) func allocate(_ slot: Int, _ size: Int) -> UInt64 {
    do throws(NVMError) { return try heap.allocate(byteCount: size).rawValue } catch { return 0 }
  }
  @inline(__always) func free(_ slot: Int, _ handle: UInt64) -> Bool {
    (doomed + count).initialize(to: Offset(rawValue: handle))
    count &+= 1
    return count < batch || settle()
  }
  func settle() -> Bool {
    defer { count = 0 }
    do throws(NVMError) {
      try heap.deallocate(contentsOf: UnsafeBufferPointer(start: doomed, count: count))
      return true
    } catch { return false }
  }
}

/// `place` and `remove`: with a link in persistent memory, all or nothing. It makes the bytes durable too.
final class PlaceStyle: HeapStyle {
  static var name: String { ours + " place" }
  static func links(_ heap: PersistentHeap, count: Int) throws -> Offset {
    let links = try heap.allocate(byteCount: count * 8)
    heap.region.fill(links, count: count * 8)
    try heap.region.persist(links, count: count * 8)
    return links
  }
  private let heap: PersistentHeap
  private let links: Offset
  init(_ heap: PersistentHeap, links: Offset, batch: Int) {
    self.heap = heap
    self.links = links
  }
  func allocate(_ slot: Int, _ size: Int) -> UInt64 {
    do throws(NVMError) {
      return try heap.place(byteCount: size, into: links + slot * 8) { (_) throws(NVMError) in }.rawValue
    } catch { return 0 }
  }
  func free(_ slot: Int, _ handle: UInt64) -> Bool {
    do throws(NVMError) {
      try heap.remove(from: links + slot * 8)
      return true
    } catch { return false }
  }
  func settle() -> Bool { true }
}

/// `reserve` and `publish`, `batch` changes in one atomic step.
final class PublishStyle: HeapStyle {
  static var name: String { ours + " publish" }
  static func links(_ heap: PersistentHeap, count: Int) throws -> Offset { Offset(0) }
  private let heap: PersistentHeap
  private let batch: Int
  private var reserved: [Reservation] = []
  private var doomed: [Offset] = []
  init(_ heap: PersistentHeap, links: Offset, batch: Int) {
    self.heap = heap
    self.batch = batch
  }
  func allocate(_ slot: Int, _ size: Int) -> UInt64 {
    do throws(NVMError) {
      let r = try heap.reserve(byteCount: size)
      reserved.append(r)
      guard reserved.count + doomed.count < batch || settle() else { return 0 }
      return r.payload.rawValue
    } catch { return 0 }
  }
  func free(_ slot: Int, _ handle: UInt64) -> Bool {
    // It may be one that is only reserved so far.
    if !reserved.isEmpty && !settle() { return false }
    doomed.append(Offset(rawValue: handle))
    return doomed.count < batch || settle()
  }
  func settle() -> Bool {
    if reserved.isEmpty && doomed.isEmpty { return true }
    defer {
      reserved.removeAll(keepingCapacity: true)
      doomed.removeAll(keepingCapacity: true)
    }
    do throws(NVMError) {
      try heap.publish { (p) throws(NVMError) in
        for r in reserved { p.use(r) }
        for h in doomed { try p.deallocate(h) }
      }
      return true
    } catch { return false }
  }
}
