import CBench
import Foundation
import NVMRegion
import PeerStores

/// A store in the competition; each has a directory of its own.
protocol StoreContestant: AnyObject {
  var name: String { get }
  /// For one thread, made on it.
  func session() -> (any StoreSession)?
  func close()
  /// Of ours on a journaled file.
  var journal: JournalStatistics? { get }
}

extension StoreContestant {
  var journal: JournalStatistics? { nil }
}

protocol StoreSession: AnyObject {
  func run(_ batch: bench_batch, _ outcome: inout bench_outcome)
  func scanAll(_ outcome: inout bench_outcome)
  var counts: Counts? { get }
  func end()
}

enum StoreKind: Int32 {
  case words = 0
  case bytes = 1
}

enum Stores {
  static let names = [ours, oneCall, twin, "LMDB", "SQLite", "RocksDB", floor]
  /// One sequential write and one sync.
  static let floor = "floor"
  /// Ours, with several changes in one call that is no transaction.
  static let oneCall = ours + ", one call"

  /// Ours on emulated memory, beside the one on a file: what the medium costs a look-up.
  static let twin = ours + ", emulated"

  static func directory(_ name: String, in directory: String) -> String {
    directory + "/" + name.filter(\.isLetter)
  }

  /// Opens or creates a contestant in its directory below `directory`.
  static func open(_ name: String, in directory: String, kind: StoreKind, options: Options) throws
    -> (any StoreContestant)?
  {
    let own = Self.directory(name, in: directory)
    try FileManager.default.createDirectory(atPath: own, withIntermediateDirectories: true)
    switch name {
    case "LMDB": return PeerStore(bench_store_lmdb(), directory: own, kind: kind)
    case "SQLite": return PeerStore(bench_store_sqlite(), directory: own, kind: kind)
    case "RocksDB": return PeerStore(bench_store_rocksdb(), directory: own, kind: kind)
    // A floor of disks.
    case floor: return options.media == .emulated ? nil : FloorStore(directory: own)
    case twin:
      guard options.media == .file else { return nil }
      return try OurStore(
        path: "/dev/shm/nvm-bench-\(getpid())-twin.nvm", name: twin, media: .emulated, kind: kind,
        isOneCall: false, isTemporary: true)
    default:
      return try OurStore(
        path: own + "/store.nvm", name: name, media: options.mediaChoice, kind: kind,
        isOneCall: name == oneCall, isTemporary: false)
    }
  }

  /// Bytes of disk that a contestant's files take.
  static func bytesOnDisk(_ name: String, in directory: String) -> Int {
    let own = Self.directory(name, in: directory)
    var total = 0
    for file in FileManager.default.enumerator(atPath: own)?.allObjects as? [String] ?? [] {
      var s = stat()
      if stat(own + "/" + file, &s) == 0 { total += Int(s.st_blocks) * 512 }
    }
    return total
  }
}

final class PeerStore: StoreContestant {
  let name: String
  private let table: UnsafePointer<bench_store>
  private let handle: UnsafeMutableRawPointer

  init?(_ table: UnsafePointer<bench_store>?, directory: String, kind: StoreKind) {
    guard let table, let handle = table.pointee.open(directory, kind.rawValue) else { return nil }
    self.table = table
    self.handle = handle
    name = String(cString: table.pointee.name)
  }
  func session() -> (any StoreSession)? {
    table.pointee.session(handle).map { Session(table: table, handle: $0) }
  }
  func close() { table.pointee.close(handle) }

  final class Session: StoreSession {
    private let table: UnsafePointer<bench_store>
    private let handle: UnsafeMutableRawPointer
    init(table: UnsafePointer<bench_store>, handle: UnsafeMutableRawPointer) {
      self.table = table
      self.handle = handle
    }
    func run(_ batch: bench_batch, _ outcome: inout bench_outcome) {
      withUnsafePointer(to: batch) { table.pointee.run(handle, $0, &outcome) }
    }
    func scanAll(_ outcome: inout bench_outcome) { table.pointee.scan_all(handle, &outcome) }
    var counts: Counts? { nil }
    func end() { table.pointee.end_session(handle) }
  }
}
