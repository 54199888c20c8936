/// Which states of the medium a crash may leave behind: the fault model under which code is explored.
public enum CrashModel: String, Sendable, CaseIterable, CustomStringConvertible {
  /// Persistent memory behind volatile caches, the main model. Each 64-byte line holds, independently of
  /// the others, the stores made to it up to some point; a bulk write interrupted there may have any
  /// subset of its words. Only what one thread flushed and then fenced is certain. Words are never torn.
  case cacheLine = "cacheline"
  /// Caches that are flushed when power fails; also `kill -9` on any medium. The stores up to some moment,
  /// in their global order, and none after it.
  case automaticFlush = "autoflush"
  /// A file in the page cache. Each 512-byte sector is at any version since the last completed sync of
  /// its 4 KiB page.
  case inPlaceFile = "inplace"

  public var description: String {
    switch self {
    case .cacheLine: "cache-line model"
    case .automaticFlush: "automatic-flush model"
    case .inPlaceFile: "in-place-file model"
    }
  }

  /// Bytes that fail together.
  var unitSize: Int { self == .inPlaceFile ? 512 : 64 }
}
