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
  /// A file with a journal, in the page cache: the journal's own writes and those of its checkpoints are what the
  /// in-place-file model makes of them; the data is in private memory, and nothing of it survives.
  case journaledFile = "journaled"

  public var description: String {
    switch self {
    case .cacheLine: "cache-line model"
    case .automaticFlush: "automatic-flush model"
    case .inPlaceFile: "in-place-file model"
    case .journaledFile: "journaled-file model"
    }
  }

  /// Bytes that fail together.
  var unitSize: Int { isFile ? 512 : 64 }
  /// Whether sectors and syncs take the place of lines and fences.
  var isFile: Bool { self == .inPlaceFile || self == .journaledFile }
  /// Bytes that the file has on top of the region's payload. Small, so that a scenario goes round it.
  var journalSize: Int { self == .journaledFile ? 40 << 10 : 0 }
}
