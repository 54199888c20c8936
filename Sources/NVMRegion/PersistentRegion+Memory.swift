extension PersistentRegion {
  /// A region over anonymous memory, driven by `medium` (or, without one, as emulated memory): what the crash
  /// explorer runs on.
  ///
  /// - Parameters:
  ///   - image: the bytes of a file to open (its superblocks are checked as `open` does), or `nil` for
  ///     a fresh region of `size` bytes, formatted through the medium's primitives.
  ///   - maximumSize: how far it may grow.
  package static func inMemory(
    image: UnsafeRawBufferPointer?, size: Int, maximumSize: Int, medium: (any RegionMedium)?,
    uuid: RegionUUID = .random(), access: RegionOptions.Access = .readWrite
  ) throws(NVMError) -> PersistentRegion {
    let name = "(memory)"
    let writable = access == .readWrite
    var superblock: Superblock
    var copy = 1
    if let image {
      (superblock, copy) = try Superblock.choose(image, path: name)
      guard superblock.size <= UInt64(image.count) else {
        throw NVMError(
          code: .truncated, message: "The image is shorter than its superblock says.", path: name)
      }
      if writable { superblock.incarnation += 1 }
    } else {
      superblock = Superblock(
        uuid: uuid, size: UInt64((size + 4095) & ~4095), payload: UInt64(SuperblockLayout.headerSize),
        media: RegionMedia.simulated.rawValue, incarnation: 1)
    }
    let count = Int(superblock.size)
    let protection = try RegionProtection.resolve(nil)
    let space = try AddressSpace.reserve(wanted: max(maximumSize, count), needed: count, path: name)
    let region: PersistentRegion
    do throws(NVMError) {
      try mapAnonymous(space.base, count, name)
      if let image { space.base.copyMemory(from: image.baseAddress!, byteCount: count) }
      let guarded = try guarded(
        medium, protection, space: space, mapped: count, path: name, flushesLines: true)
      region = PersistentRegion(
        path: name, media: medium == nil ? .emulated : .simulated, isReadOnly: !writable,
        wasCleanlyClosed: image == nil || superblock.isClean, space: space, mapped: count,
        maximumSize: max(maximumSize, count), superblock: superblock, newestCopy: copy, fd: -1,
        medium: guarded, protection: protection,
        wearCounts: (medium as? LineCountingMedium)?.counts)
    } catch {
      space.release()
      throw error
    }
    if image == nil {
      try region.formatSuperblocks()
    } else if writable {
      try region.markOpened()
    }
    return region
  }

  /// A region over a file that is no file of the system's, driven as a journaled file, in anonymous memory.
  ///
  /// - Parameters:
  ///   - journalSize: for a fresh region of `size` bytes, on top of these; `nil`: the file holds one, and is opened and
  ///     recovered.
  package static func inMemory(
    file: any JournalFile, journalSize: Int?, size: Int, maximumSize: Int, uuid: RegionUUID,
    options: JournaledFileMedium.Options
  ) throws(NVMError) -> PersistentRegion {
    let name = "(memory)"
    var superblock: Superblock
    var copy = 1
    if let journalSize {
      superblock = Superblock(
        uuid: uuid, size: UInt64(size + journalSize),
        payload: UInt64(SuperblockLayout.headerSize + journalSize),
        media: RegionMedia.journaledFile.rawValue, incarnation: 1)
      superblock.journalOffset = UInt64(SuperblockLayout.headerSize)
      superblock.journalSize = UInt64(journalSize)
    } else {
      let header = UnsafeMutableRawBufferPointer.allocate(
        byteCount: SuperblockLayout.headerSize, alignment: 8)
      defer { header.deallocate() }
      try check(file.read(header, at: 0), name)
      (superblock, copy) = try Superblock.choose(UnsafeRawBufferPointer(header), path: name)
      if superblock.isJournalInUse {
        try JournalRecovery(JournalArea(file, superblock, path: name)).replay()
      }
      superblock.incarnation += 1
    }
    let count = Int(superblock.size)
    let space = try AddressSpace.reserve(wanted: max(maximumSize, count), needed: count, path: name)
    let region: PersistentRegion
    do throws(NVMError) {
      try mapAnonymous(space.base, count, name)
      if journalSize == nil {
        try check(file.read(UnsafeMutableRawBufferPointer(start: space.base, count: count), at: 0), name)
      }
      let medium = try beginJournal(
        JournalArea(file, superblock, path: name), incarnation: superblock.incarnation, capacity: space.size,
        options)
      region = PersistentRegion(
        path: name, media: .journaledFile, isReadOnly: false,
        wasCleanlyClosed: journalSize != nil || superblock.isClean, space: space, mapped: count,
        maximumSize: max(maximumSize, count), superblock: superblock, newestCopy: copy, fd: -1,
        medium: medium,
        protection: .none)
    } catch {
      space.release()
      throw error
    }
    if journalSize != nil { try region.formatSuperblocks() } else { try region.markOpened() }
    return region
  }
}
