import CNVM
public import NVMRegion

/// The named roots, in memory.
struct RootTable: Sendable {
  var offset: Offset
  var count: Int
  var index: [String: Int] = [:]
  var vacant: [Int] = []
  /// Lines whose name does not verify: a missing name may stand there.
  var damaged: [Int] = []

  func line(_ i: Int) -> Offset { offset + i * RootLine.size }

  /// Reads the table. O(roots).
  static func read(_ region: PersistentRegion, _ check: HeaderCheck, offset: Offset, count: Int) -> RootTable
  {
    var table = RootTable(offset: offset, count: count)
    for i in 0..<count {
      let at = table.line(i)
      let word = region.load(at + 8)
      if word == 0 {
        table.vacant.append(i)
      } else if let name = name(region, check, at), table.index[name] == nil {
        table.index[name] = i
      } else {
        table.damaged.append(i)
      }
    }
    table.vacant.reverse()
    return table
  }

  /// The name in a line, if it verifies.
  static func name(_ region: PersistentRegion, _ check: HeaderCheck, _ at: Offset) -> String? {
    let word = region.load(at + 8)
    let length = Int(word & 0xFF)
    guard (1...RootLine.longestName).contains(length) else { return nil }
    let bytes = UnsafeRawBufferPointer(start: region.pointer(to: at + 16), count: length)
    guard check.rootName(bytes, at: at.rawValue) == word else { return nil }
    return String(validating: bytes, as: UTF8.self)
  }
}

extension PersistentHeap {
  /// The word of a named root: a place for ``place(byteCount:alignment:tag:owner:into:initialize:)``, for
  /// ``remove(from:)`` and for publications. It stays where it is until the root is removed.
  ///
  /// - Parameters:
  ///   - name: 1 to 48 bytes of UTF-8.
  ///   - createIfMissing: makes the root, with value 0, durably, where there is none.
  /// - Throws: `.notFound`, `.invalidArgument`, `.outOfSpace` when the table is full, `.corrupt` when the
  ///   name is not found but a damaged line may hold it.
  /// - Complexity: O(1); one fence where it is made.
  public func rootLink(named name: String, createIfMissing: Bool = true) throws(NVMError) -> Offset {
    try checkUsable()
    let bytes = try nameBytes(name)
    let link = try roots.withLock { (table) throws(NVMError) in
      if let i = table.index[name] { return table.line(i) }
      try refuseIfDamaged(table)
      guard createIfMissing else {
        throw NVMError(code: .notFound, message: "There is no root named \"\(name)\".", path: region.path)
      }
      try checkWritable()
      return try make(&table, name, bytes, value: 0)
    }
    try region.acknowledge()
    return link
  }

  /// The value of a named root, `nil` where there is none of the name. O(1).
  /// - Throws: `.corrupt` when the name is not found but a damaged line may hold it.
  public func root(named name: String) throws(NVMError) -> Offset? {
    try checkUsable()
    return try roots.withLock { (table) throws(NVMError) in
      guard let i = table.index[name] else {
        try refuseIfDamaged(table)
        return nil
      }
      return Offset(rawValue: region.load(table.line(i)))
    }
  }

  /// Sets a named root, and makes it where there is none: durable on return, one fence.
  public func setRoot(_ value: Offset, named name: String) throws(NVMError) {
    try checkWritable()
    let bytes = try nameBytes(name)
    try roots.withLock { (table) throws(NVMError) in
      guard let i = table.index[name] else {
        try refuseIfDamaged(table)
        _ = try make(&table, name, bytes, value: value.rawValue)
        return
      }
      // Not beside a placement into it: its record, replayed after a crash, would bring an older value back.
      let lock = linkLock(table.line(i))
      lock.lock()
      defer { lock.unlock() }
      region.store(value.rawValue, at: table.line(i))
      region.flush(table.line(i), count: 8)
      try region.settle()
    }
    try region.acknowledge()
  }

  /// Removes a named root; what it refers to stays. Durable on return, one fence.
  /// - Throws: `.notFound`.
  public func removeRoot(named name: String) throws(NVMError) {
    try checkWritable()
    try roots.withLock { (table) throws(NVMError) in
      guard let i = table.index[name] else {
        try refuseIfDamaged(table)
        throw NVMError(code: .notFound, message: "There is no root named \"\(name)\".", path: region.path)
      }
      region.store(0, at: table.line(i) + 8)
      region.flush(table.line(i) + 8, count: 8)
      try region.settle()
      table.index[name] = nil
      table.vacant.append(i)
    }
    try region.acknowledge()
  }

  /// The names of all roots, sorted.
  public var rootNames: [String] { roots.withLock { $0.index.keys.sorted() } }

  private func make(
    _ table: inout RootTable, _ name: String, _ bytes: [UInt8], value: UInt64
  ) throws(NVMError) -> Offset {
    guard let i = table.vacant.popLast() else {
      throw NVMError(
        code: .outOfSpace, message: "All \(table.count) named roots are taken. Remove one.", path: region.path
      )
    }
    let at = table.line(i)
    var padded = bytes
    padded.append(contentsOf: repeatElement(0, count: RootLine.longestName - bytes.count))
    // One line: word 1 commits name and value.
    padded.withUnsafeBytes { words in
      for w in 0..<6 { region.store(words.load(fromByteOffset: 8 * w, as: UInt64.self), at: at + 16 + 8 * w) }
    }
    // As in setRoot: somebody may still place into the link of a root that stood here.
    let lock = linkLock(at)
    lock.lock()
    defer { lock.unlock() }
    region.store(value, at: at)
    region.store(bytes.withUnsafeBytes { check.rootName($0, at: at.rawValue) }, at: at + 8)
    region.flush(at, count: RootLine.size)
    try region.settle()
    table.index[name] = i
    return at
  }

  private func nameBytes(_ name: String) throws(NVMError) -> [UInt8] {
    let bytes = Array(name.utf8)
    guard (1...RootLine.longestName).contains(bytes.count) else {
      throw NVMError(
        code: .invalidArgument,
        message: "A root's name has 1 to \(RootLine.longestName) bytes; \"\(name)\" has \(bytes.count).",
        path: region.path)
    }
    return bytes
  }

  private func refuseIfDamaged(_ table: RootTable) throws(NVMError) {
    guard let i = table.damaged.first else { return }
    throw corrupt(
      "A line of the root table is damaged and may have held this name.", at: table.line(i).rawValue)
  }
}
