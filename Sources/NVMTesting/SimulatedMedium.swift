import CNVM
import Glibc
package import NVMRegion
import Synchronization

/// A medium that carries out each primitive under a lock and records it; or, under the journaled-file model, the file
/// that a journaled medium writes: then what is recorded are its writes and syncs.
///
/// Invariant, under the lock: the mapping equals the shadow, unless somebody stored without the
/// primitives. The lines concerned are compared before each store and flush, the whole region at each
/// fence and acknowledgement; a difference is recorded as a stray store, and the shadow follows.
package final class SimulatedMedium: RegionMedium, JournalFile, @unchecked Sendable {
  struct Stray: Sendable {
    var event: Int
    var offset: Int
  }
  fileprivate struct State: @unchecked Sendable {
    var base: UnsafeMutableRawPointer?
    let shadow: UnsafeMutableRawPointer
    /// Bytes of the file.
    var size: Int
    /// Bytes mapped; after a crash in growth the file may be longer.
    var mapped: Int
    var trace = Trace()
    var strays: [Stray] = []
    var running: [Int32: Int32] = [:]
    var pauses: SeededGenerator?
    var interruption: (thread: Int32, fencesLeft: Int, run: @Sendable () -> Void)?
  }
  private let state: Mutex<State>
  private let shadow: UnsafeMutableRawPointer
  private let capacity: Int
  private let capturesSites: Bool
  private let model: CrashModel

  /// - Parameters:
  ///   - image: what the medium holds at first; zeros where it ends or is `nil`.
  ///   - size: the file's size in bytes, at most `capacity`.
  ///   - pauses: lets threads give way at random before a primitive.
  init(
    image: UnsafeRawBufferPointer?, size: Int, capacity: Int, model: CrashModel, capturesSites: Bool,
    pauses: SeededGenerator? = nil
  ) {
    shadow = .allocate(byteCount: capacity, alignment: 4096)
    memset(shadow, 0, capacity)
    if let image { shadow.copyMemory(from: image.baseAddress!, byteCount: min(image.count, capacity)) }
    self.capacity = capacity
    self.model = model
    self.capturesSites = capturesSites
    state = Mutex(State(base: nil, shadow: shadow, size: size, mapped: size, pauses: pauses))
  }

  deinit { shadow.deallocate() }

  /// The trace so far. The medium goes on recording.
  var trace: Trace { state.withLock { $0.trace } }
  var strays: [Stray] { state.withLock { $0.strays } }

  // MARK: Marks

  /// Records that the calling thread begins an operation; returns its index.
  @discardableResult
  func begin(_ name: String, thread: Int) -> Int {
    record { (state, context) in
      let index = state.trace.operations.count
      state.trace.operations.append(
        Trace.Operation(name: name, thread: thread, begin: state.trace.events.count))
      state.running[context.thread] = Int32(index)
      state.append(.begin, context, offset: 0, count: 0)
      return index
    }
  }

  /// Records that the operation is acknowledged to its caller: it must survive from here on.
  func acknowledge(_ operation: Int) {
    record { (state, context) in
      state.compare(0, state.mapped, context)
      state.trace.operations[operation].acknowledge = state.trace.events.count
      state.append(.acknowledge, context, offset: 0, count: 0)
      state.running[context.thread] = nil
    }
  }

  /// Records that the structure is ready for the scenario's operations.
  func markReady() {
    record { (state, context) in
      state.compare(0, state.mapped, context)
      state.trace.ready = state.trace.events.count
      state.append(.acknowledge, context, offset: 0, count: 0)
    }
  }

  /// Makes a region on the blank medium.
  func create(size: Int, maximumSize: Int, uuid: RegionUUID) throws(NVMError) -> PersistentRegion {
    guard size >= PersistentRegion.minimumSize else {
      throw NVMError(
        code: .invalidArgument,
        message: "A region of \(size) bytes cannot be made: the scenario's regionSize must be at least "
          + "\(PersistentRegion.minimumSize).")
    }
    if model == .journaledFile {
      return try PersistentRegion.inMemory(
        file: self, journalSize: model.journalSize, size: size, maximumSize: maximumSize + model.journalSize,
        uuid: uuid, options: Self.journal)
    }
    return try PersistentRegion.inMemory(
      image: nil, size: size, maximumSize: maximumSize, medium: self, uuid: uuid)
  }

  /// Checkpoints by the thread that fills the journal: the same in every run.
  static var journal: JournaledFileMedium.Options {
    var options = JournaledFileMedium.Options()
    options.checkpointsInBackground = false
    // Its memory has no file behind it that could stand for a page.
    options.privatePages = .max
    return options
  }

  /// Opens a region on what the medium holds.
  func open(maximumSize: Int) throws(NVMError) -> PersistentRegion {
    if model == .journaledFile {
      return try PersistentRegion.inMemory(
        file: self, journalSize: nil, size: 0, maximumSize: maximumSize + model.journalSize,
        uuid: RegionUUID(high: 0, low: 0), options: Self.journal)
    }
    let image = UnsafeRawBufferPointer(start: shadow, count: state.withLock { $0.size })
    // The superblock, not the file, says how much is mapped.
    let mapped = try PersistentRegion.inMemory(
      image: image, size: 0, maximumSize: 0, medium: nil, access: .readOnly
    ).size
    state.withLock { $0.mapped = mapped }
    return try PersistentRegion.inMemory(image: image, size: 0, maximumSize: maximumSize, medium: self)
  }

  /// The mapping is gone (closed): nothing is compared any more until the next `attach`.
  func detach() { state.withLock { $0.base = nil } }

  /// Has the calling thread do something else just before its n-th order or fence from here, counted from 0.
  func interrupt(beforeFence n: Int, _ run: @escaping @Sendable () -> Void) {
    state.withLock { $0.interruption = (nvm_thread_slot(), n, run) }
  }

  /// Forgets the interruption. Returns whether it was still to come.
  func cancelInterruption() -> Bool {
    state.withLock { state in
      defer { state.interruption = nil }
      return state.interruption != nil
    }
  }

  // MARK: RegionMedium

  package func attach(base: UnsafeMutableRawPointer, path: String) { state.withLock { $0.base = base } }

  package func store(_ word: UInt64, at p: UnsafeMutableRawPointer) {
    recordStore(.store, p, 8) { nvm_store_release(p, word) }
  }
  package func storeNontemporal(_ word: UInt64, at p: UnsafeMutableRawPointer) {
    recordStore(.nontemporal, p, 8) { nvm_store_release(p, word) }
  }
  package func write(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    guard let from = source.baseAddress, source.count > 0 else { return }
    recordStore(.write, p, source.count) { p.copyMemory(from: from, byteCount: source.count) }
  }
  package func writeNontemporal(_ source: UnsafeRawBufferPointer, at p: UnsafeMutableRawPointer) {
    guard let from = source.baseAddress, source.count > 0 else { return }
    recordStore(.nontemporal, p, source.count) { p.copyMemory(from: from, byteCount: source.count) }
  }
  package func fill(_ byte: UInt8, count: Int, at p: UnsafeMutableRawPointer) {
    guard count > 0 else { return }
    recordStore(.write, p, count) { memset(p, Int32(byte), count) }
  }

  package func flush(_ p: UnsafeMutableRawPointer, count: Int) {
    guard count > 0 else { return }
    record { (state, context) in
      guard let base = state.base else { return }
      let offset = p - base
      state.compare(offset & ~63, (offset + count + 63) & ~63, context)
      state.append(.flush, context, offset: offset, count: count)
    }
  }
  package func order() throws(NVMError) { recordFence(.order) }
  package func fence() throws(NVMError) { recordFence(.fence) }

  package func didGrow(to size: Int) {
    record { (state, context) in
      precondition(size <= capacity, "the region outgrew the simulated medium")
      state.size = max(state.size, size)
      state.mapped = size
      state.append(.grow, context, offset: 0, count: size)
    }
  }

  // MARK: JournalFile

  package func read(_ buffer: UnsafeMutableRawBufferPointer, at offset: Int) -> Int32 {
    state.withLock { state in
      guard offset >= 0, offset + buffer.count <= state.size else { return -EIO }
      buffer.baseAddress?.copyMemory(from: shadow + offset, byteCount: buffer.count)
      return 0
    }
  }
  package func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) -> Int32 {
    record { (state, context) in state.write(bytes, at: offset, context) }
    return 0
  }
  package func writeDurably(_ bytes: UnsafeRawBufferPointer, at offset: Int) -> Int32 {
    record { (state, context) in
      state.write(bytes, at: offset, context)
      state.append(.flush, context, offset: offset, count: bytes.count)
    }
    recordFence(.fence)
    return 0
  }
  package func startWriting(at offset: Int, count: Int) {}
  package func sync() -> Int32 {
    record { (state, context) in state.append(.flush, context, offset: 0, count: state.size) }
    recordFence(.fence)
    return 0
  }

  // MARK: Recording

  fileprivate struct Context {
    var thread: Int32
    var site: Int32
  }

  private func record<R>(_ body: (inout State, Context) -> R) -> R {
    let site = capturesSites ? CallSites.capture() : -1
    let context = Context(thread: nvm_thread_slot(), site: site)
    let pause = state.withLock { state -> UInt64 in state.pauses?.next() ?? 0 }
    // Threads give way in one of four primitives, and sleep in one of sixteen.
    if pause & 15 == 1 { usleep(UInt32(pause >> 8 & 63)) } else if pause & 3 == 1 { sched_yield() }
    return state.withLock { state in body(&state, context) }
  }

  private func recordStore(
    _ kind: Trace.Event.Kind, _ p: UnsafeMutableRawPointer, _ count: Int, _ perform: () -> Void
  ) {
    record { (state, context) in
      guard let base = state.base else { return perform() }
      let start = (p - base) & ~7
      let end = (p - base + count + 7) & ~7
      state.compare(start, end, context)
      perform()
      state.copyToTrace(kind, start, end, context, isStray: false)
    }
  }

  private func recordFence(_ kind: Trace.Event.Kind) {
    let interruption = state.withLock { state -> (@Sendable () -> Void)? in
      guard let (thread, left, run) = state.interruption, thread == nvm_thread_slot() else { return nil }
      state.interruption = left > 0 ? (thread, left - 1, run) : nil
      return left > 0 ? nil : run
    }
    interruption?()
    record { (state, context) in
      state.compare(0, state.mapped, context)
      state.append(kind, context, offset: 0, count: 0)
    }
  }
}

extension SimulatedMedium.State {
  fileprivate mutating func append(
    _ kind: Trace.Event.Kind, _ context: SimulatedMedium.Context, offset: Int, count: Int, data: Int = 0,
    isStray: Bool = false
  ) {
    trace.events.append(
      Trace.Event(
        kind: kind, thread: context.thread, operation: running[context.thread] ?? -1, site: context.site,
        offset: offset, count: count, data: data, isStray: isStray))
  }

  /// Records the present words of `start ..< end` as stored, in the shadow too.
  fileprivate mutating func copyToTrace(
    _ kind: Trace.Event.Kind, _ start: Int, _ end: Int, _ context: SimulatedMedium.Context, isStray: Bool
  ) {
    guard let base else { return }
    let data = trace.words.count
    for at in stride(from: start, to: end, by: 8) {
      trace.words.append((base + at).load(as: UInt64.self))
    }
    (shadow + start).copyMemory(from: base + start, byteCount: end - start)
    append(kind, context, offset: start, count: (end - start) / 8, data: data, isStray: isStray)
  }

  /// Records bytes written to the file, in the shadow too.
  fileprivate mutating func write(
    _ bytes: UnsafeRawBufferPointer, at offset: Int, _ context: SimulatedMedium.Context
  ) {
    let data = trace.words.count
    for at in stride(from: 0, to: bytes.count, by: 8) {
      trace.words.append(bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self))
    }
    (shadow + offset).copyMemory(from: bytes.baseAddress!, byteCount: bytes.count)
    append(.write, context, offset: offset, count: bytes.count / 8, data: data)
  }

  /// Finds words in `start ..< end` that differ from the shadow: somebody stored without the primitives.
  fileprivate mutating func compare(_ start: Int, _ end: Int, _ context: SimulatedMedium.Context) {
    let end = min(end, mapped)
    guard let base, start < end, memcmp(base + start, shadow + start, end - start) != 0 else { return }
    var at = start
    while at < end {
      guard (base + at).load(as: UInt64.self) != (shadow + at).load(as: UInt64.self) else {
        at += 8
        continue
      }
      var stop = at + 8
      while stop < end, (base + stop).load(as: UInt64.self) != (shadow + stop).load(as: UInt64.self) {
        stop += 8
      }
      strays.append(SimulatedMedium.Stray(event: trace.events.count, offset: at))
      copyToTrace(.write, at, stop, context, isStray: true)
      at = stop
    }
  }
}
