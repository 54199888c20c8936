/// What the journal of a journaled file has done since the opening: see ``PersistentRegion/journalStatistics``.
public struct JournalStatistics: Sendable, Equatable {
  /// Bytes that the ring holds.
  public var capacity: Int
  /// Bytes of it in use: not in their places yet.
  public var used: Int
  /// Bytes appended: records, and a head for each batch. The disk is given whole pages, up to one more for each sync.
  public var appended: UInt64
  /// Batches written, each with one sync.
  public var syncs: UInt64
  /// Times that what was durable was brought home.
  public var checkpoints: UInt64
  /// 4 KiB pages of memory that differ from the file's, or may.
  public var privatePages: Int
  /// Large pages of 2 MiB under what is read at random; each counts as 512 private ones too.
  public var largePages: Int
}

extension PersistentRegion {
  /// What the journal has done since the opening; `nil` where the region lies on another medium. Of one moment, beside
  /// other threads. Thread-safe; O(1).
  public var journalStatistics: JournalStatistics? { journal?.statistics }
}
