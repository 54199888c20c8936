import CBench
import Foundation
import NVM

/// How a benchmark's integers become the keys and values of a tree.
protocol StoreCodec {
  associatedtype Key: DurableKey & Sendable
  associatedtype Value: DurableValue & Sendable
  static func key(_ k: UInt64) -> Key
  static func value(_ k: UInt64, _ version: UInt64) -> Value
  static func number(ofKey key: Key, _ wrong: inout UInt64) -> UInt64
  static func number(ofValue value: Value, _ wrong: inout UInt64) -> UInt64
  /// Whether scans take the bytes where they lie, as the peers' do.
  static var isBytes: Bool { get }
}

enum WordCodec: StoreCodec {
  static var isBytes: Bool { false }
  @inline(__always) static func key(_ k: UInt64) -> UInt64 { k }
  @inline(__always) static func value(_ k: UInt64, _ version: UInt64) -> UInt64 { bench_value(k, version) }
  @inline(__always) static func number(ofKey key: UInt64, _ wrong: inout UInt64) -> UInt64 { key }
  @inline(__always) static func number(ofValue value: UInt64, _ wrong: inout UInt64) -> UInt64 { value }
}

enum BytesCodec: StoreCodec {
  static var isBytes: Bool { true }
  static func key(_ k: UInt64) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: Int(BENCH_LONG_KEY)) { $1 = bench_long_key(k, $0.baseAddress) }
  }
  static func value(_ k: UInt64, _ version: UInt64) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: Int(BENCH_LONG_VALUE)) {
      bench_long_value(k, version, $0.baseAddress)
      $1 = Int(BENCH_LONG_VALUE)
    }
  }
  static func number(ofKey key: [UInt8], _ wrong: inout UInt64) -> UInt64 {
    bench_key_of(key, key.count, &wrong)
  }
  static func number(ofValue value: [UInt8], _ wrong: inout UInt64) -> UInt64 {
    bench_value_of(value, value.count, &wrong)
  }
}

/// Ours. Loops are specialised for each codec, as a user's code is for the types of the tree: so the classes are not
/// generic themselves.
final class OurStore: StoreContestant {
  let name: String
  private let store: NVMStore
  private let makeSession: () -> any StoreSession
  private let temporary: String?

  /// - Parameter isOneCall: several changes go in by one call, each for itself, not as a transaction.
  /// - Parameter isTemporary: the file goes when the store is closed.
  /// - Parameter journalSize: of a new file, in bytes.
  init(
    path: String, name: String, media: RegionOptions.MediaChoice, kind: StoreKind, isOneCall: Bool,
    isTemporary: Bool, journalSize: Int? = nil
  ) throws {
    self.name = name
    temporary = isTemporary ? path : nil
    var options = NVMStoreOptions(media: media)
    options.journalSize = journalSize
    store = try NVMStore(path: path, options: options)
    let store = store
    switch kind {
    case .words:
      let tree = try store.tree("bench", of: UInt64.self, UInt64.self)
      makeSession = { WordSession(store, tree, isOneCall) }
    case .bytes:
      let tree = try store.tree("bench", of: [UInt8].self, [UInt8].self)
      makeSession = { BytesSession(store, tree, isOneCall) }
    }
  }
  func session() -> (any StoreSession)? { makeSession() }
  func close() {
    try? store.close()
    if let temporary { unlink(temporary) }
  }
  var journal: JournalStatistics? { store.region.journalStatistics }
}

private final class WordSession: StoreSession {
  private let store: NVMStore
  private let tree: DurableBTree<UInt64, UInt64>
  private let isOneCall: Bool
  init(_ store: NVMStore, _ tree: DurableBTree<UInt64, UInt64>, _ isOneCall: Bool) {
    (self.store, self.tree, self.isOneCall) = (store, tree, isOneCall)
  }
  var counts: Counts? { Counts(store.region.threadCounters) }
  func end() {}
  func run(_ batch: bench_batch, _ outcome: inout bench_outcome) {
    StoreLoops<WordCodec>.run(store, tree, isOneCall, batch, &outcome)
  }
  func scanAll(_ outcome: inout bench_outcome) { StoreLoops<WordCodec>.scanAll(tree, &outcome) }
}

private final class BytesSession: StoreSession {
  private let store: NVMStore
  private let tree: DurableBTree<[UInt8], [UInt8]>
  private let isOneCall: Bool
  init(_ store: NVMStore, _ tree: DurableBTree<[UInt8], [UInt8]>, _ isOneCall: Bool) {
    (self.store, self.tree, self.isOneCall) = (store, tree, isOneCall)
  }
  var counts: Counts? { Counts(store.region.threadCounters) }
  func end() {}
  func run(_ batch: bench_batch, _ outcome: inout bench_outcome) {
    StoreLoops<BytesCodec>.run(store, tree, isOneCall, batch, &outcome)
  }
  func scanAll(_ outcome: inout bench_outcome) { StoreLoops<BytesCodec>.scanAll(tree, &outcome) }
}

/// The loop of `StoreLoop.hpp` in Swift. A change by itself goes straight into the tree, several go in as a
/// transaction.
private enum StoreLoops<Codec: StoreCodec> {
  typealias Tree = DurableBTree<Codec.Key, Codec.Value>

  @inline(__always)
  static func run(
    _ store: NVMStore, _ tree: Tree, _ isOneCall: Bool, _ batch: bench_batch, _ outcome: inout bench_outcome
  ) {
    if batch.per_commit > 1, isOneCall, batch.op != BENCH_DELETE {
      oneCall(tree, batch, &outcome)
    } else if batch.per_commit > 1 {
      grouped(store, tree, batch, &outcome)
    } else {
      single(tree, batch, &outcome)
    }
  }

  @inline(__always)
  private static func single(_ tree: Tree, _ batch: bench_batch, _ outcome: inout bench_outcome) {
    var o = outcome
    let version = UInt64(batch.version)
    for i in 0..<batch.count {
      let k = batch.keys[i]
      let op = Int(batch.ops.map { $0[i] } ?? batch.op)
      let began = batch.ticks == nil ? 0 : bench_ticks()
      do {
        switch op {
        case BENCH_LOOKUP, BENCH_MISS:
          let found = try tree.value(forKey: Codec.key(k))
          if (found != nil) != (op == BENCH_LOOKUP) { o.wrong &+= 1 }
          if let found {
            let v = Codec.number(ofValue: found, &o.wrong)
            if bench_is_value(k, v) == 0 { o.wrong &+= 1 }
            o.checksum &+= v
          }
        case BENCH_UPDATE, BENCH_INSERT:
          try tree.setValue(Codec.value(k, version &+ UInt64(i)), forKey: Codec.key(k))
        case BENCH_DELETE: if try tree.removeValue(forKey: Codec.key(k)) == nil { o.wrong &+= 1 }
        default: try scan(tree, from: Codec.key(k), count: op - BENCH_SCAN, &o)
        }
      } catch {
        o.wrong &+= 1
      }
      if batch.ticks != nil { batch.ticks[i] = UInt32(truncatingIfNeeded: bench_ticks() &- began) }
    }
    outcome = o
  }

  /// Changes only.
  @inline(__always)
  private static func grouped(
    _ store: NVMStore, _ tree: Tree, _ batch: bench_batch, _ o: inout bench_outcome
  ) {
    let version = UInt64(batch.version)
    let op = Int(batch.op)
    var i = 0
    while i < batch.count {
      let end = min(i + Int(batch.per_commit), batch.count)
      do {
        try store.write { tx in
          let t = try tx[tree]
          for j in i..<end {
            let k = batch.keys[j]
            if op == BENCH_DELETE {
              if try t.removeValue(forKey: Codec.key(k)) == nil { o.wrong &+= 1 }
            } else {
              try t.setValue(Codec.value(k, version &+ UInt64(j)), forKey: Codec.key(k))
            }
          }
        }
      } catch {
        o.wrong &+= 1
      }
      i = end
    }
  }

  @inline(__always)
  private static func oneCall(_ tree: Tree, _ batch: bench_batch, _ o: inout bench_outcome) {
    let version = UInt64(batch.version)
    var i = 0
    while i < batch.count {
      let end = min(i + Int(batch.per_commit), batch.count)
      let keys = batch.keys!
      do throws(NVMError) {
        try tree.updateValues(
          (i..<end).lazy.map { (Codec.key(keys[$0]), Codec.value(keys[$0], version &+ UInt64($0))) })
      } catch {
        o.wrong &+= 1
      }
      i = end
    }
  }

  @inline(__always)
  private static func scan(
    _ tree: Tree, from key: Codec.Key?, count: Int, _ o: inout bench_outcome
  ) throws {
    if Codec.isBytes { return try scanBytes(tree, from: key, count: count, &o) }
    var iterator = try tree.range(from: key, to: nil).makeIterator()
    var left = count
    var last: UInt64?
    while left > 0, let (k, v) = try iterator.nextEntry() {
      note(Codec.number(ofKey: k, &o.wrong), Codec.number(ofValue: v, &o.wrong), after: &last, &o)
      left &-= 1
    }
  }

  @inline(__always)
  private static func scanBytes(
    _ tree: Tree, from key: Codec.Key?, count: Int, _ o: inout bench_outcome
  ) throws {
    var left = count
    var last: UInt64?
    try tree.range(from: key, to: nil).forEachBytes { k, v in
      let key = k.withUnsafeBytes { bench_key_of($0.baseAddress, $0.count, &o.wrong) }
      let value = v.withUnsafeBytes { bench_value_of($0.baseAddress, $0.count, &o.wrong) }
      note(key, value, after: &last, &o)
      left &-= 1
      return left > 0
    }
  }

  /// Counts an entry of a scan, and whether it is wrong or out of order.
  @inline(__always)
  private static func note(
    _ key: UInt64, _ value: UInt64, after last: inout UInt64?, _ o: inout bench_outcome
  ) {
    if let last, key <= last { o.wrong &+= 1 }
    if bench_is_value(key, value) == 0 { o.wrong &+= 1 }
    last = key
    o.entries &+= 1
    o.checksum &+= value
  }

  @inline(__always)
  static func scanAll(_ tree: Tree, _ outcome: inout bench_outcome) {
    var o = outcome
    do { try scan(tree, from: nil, count: .max, &o) } catch { o.wrong &+= 1 }
    outcome = o
  }
}
