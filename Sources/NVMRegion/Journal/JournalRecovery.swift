import CNVM

/// Carries out what a journal holds when a file is opened. Restartable: the journal's start moves when everything is
/// home, so a crash meanwhile costs nothing but doing it again.
struct JournalRecovery {
  private let area: JournalArea
  private let header: JournalHeader

  /// - Throws: `.corrupt` where no copy of the header holds.
  init(_ area: JournalArea) throws(NVMError) {
    guard let header = try area.readHeader().header else {
      throw NVMError(
        code: .corrupt,
        message:
          "Both copies of the journal's header are damaged, so changes that were acknowledged cannot be "
          + "carried out. Restore the file from a backup; it was left as it was.", path: area.path,
        offset: UInt64(area.offset))
    }
    self.area = area
    self.header = header
  }

  private func forEachBatch(
    _ body: (UnsafeRawBufferPointer) throws(NVMError) -> Bool
  ) throws(NVMError) {
    // Looked at once before anything is changed: a damaged file is left as it is.
    for isTrial in [true, false] {
      let reader = JournalReader(area, header)
      while let records = try reader.next() {
        if isTrial {
          var iterator = JournalRecords(records, allowed: area.words)
          while iterator.next() != nil {}
          if !iterator.isSound { throw damaged() }
        } else if try !body(records) {
          throw damaged()
        }
      }
      if isTrial { try reader.checkNothingFollows() }
    }
  }

  private func damaged() -> NVMError {
    NVMError(
      code: .corrupt,
      message:
        "The journal names places that the file does not have. Restore the file from a backup; it was left "
        + "as it was.", path: area.path, offset: UInt64(area.offset))
  }

  /// Writes everything home, durably. O(journal).
  func replay() throws(NVMError) {
    var pages = JournalPages()
    defer { pages.deallocate() }
    try forEachBatch { (records) throws(NVMError) in
      if !pages.isEmpty, !pages.hasRoom(for: records.count) { try write(&pages) }
      return pages.add(records, allowed: area.words)
    }
    try write(&pages)
    let result = area.file.sync()
    if result < 0 { throw area.error("Bringing changes home", result) }
  }

  private func write(_ pages: inout JournalPages) throws(NVMError) {
    let result = pages.writeHome(to: area.file)
    if result < 0 { throw area.error("Bringing changes home", result) }
  }

  /// Carries everything out in memory alone: what a read-only opening sees.
  func apply(to base: UnsafeMutableRawPointer) throws(NVMError) {
    try forEachBatch { (records) throws(NVMError) in
      var iterator = JournalRecords(records, allowed: area.words)
      while let (place, words, source) = iterator.next() {
        (base + place * 8).copyMemory(from: source, byteCount: words * 8)
      }
      return iterator.isSound
    }
  }
}
