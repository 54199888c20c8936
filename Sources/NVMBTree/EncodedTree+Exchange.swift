package import NVMRegion

// Many changes at once that can be taken back: what a transaction carries out.

/// A change of an encoded key. Who made it keeps the bytes in place.
package struct EncodedChange {
  package var key: UnsafeRawBufferPointer
  /// `nil`: the key is removed.
  package var value: UnsafeRawBufferPointer?
  package init(key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer?) {
    self.key = key
    self.value = value
  }
}

/// What changes have replaced. A value is noted before its change is made: one that was noted without being replaced
/// is put back as what it is.
///
/// Not thread-safe: it belongs to a transaction.
package final class ReplacedValues {
  private struct Item {
    var change: Int
    var start: Int
    /// Negative: the key was not there.
    var count: Int
  }
  @exclusivity(unchecked) private var items: [Item] = []
  @exclusivity(unchecked) private var bytes: [UInt8] = []

  /// - Parameter capacity: of so many changes.
  package init(capacity: Int) { items.reserveCapacity(capacity) }

  @inline(__always) func note(_ change: Int, _ value: UnsafeRawBufferPointer?) {
    items.append(Item(change: change, start: bytes.count, count: value?.count ?? -1))
    if let value { bytes.append(contentsOf: value) }
  }
  /// A value of a word.
  @inline(__always) func note(_ change: Int, word: UInt64) {
    withUnsafeBytes(of: word.littleEndian) { note(change, $0) }
  }

  /// Calls `body` with the number of each change and the value that it replaced, `nil` where there was none.
  fileprivate func forEach(_ body: (Int, [UInt8]?) throws(NVMError) -> Void) throws(NVMError) {
    for item in items {
      try body(item.change, item.count < 0 ? nil : Array(bytes[item.start..<item.start + item.count]))
    }
  }
}

extension EncodedTree {
  /// Carries changes out, each a key of its own, best in key order: values go in by groups, as with
  /// ``DurableBTree/updateValues(_:)``. Durable on return. What they replace is noted; on an error that is what has to
  /// be put back. O(k log n).
  package func exchange(
    _ changes: [EncodedChange], noting replaced: ReplacedValues
  ) throws(NVMError) {
    let batch = TreeBatch(engine)
    batch.noted = replaced
    do throws(NVMError) {
      for i in changes.indices {
        let change = changes[i]
        guard let value = change.value else {
          try remove(change.key, i, noting: replaced)
          continue
        }
        if !engine.valuesAreBytes, value.count != 8 { throw formError("value") }
        try withSearchKey(change.key) { (key) throws(NVMError) in
          batch.add(key, change: i)
          if engine.valuesAreBytes {
            try batch.prepareLast(word: 0, bytes: value)
          } else {
            try batch.prepareLast(word: value.loadUnaligned(as: UInt64.self), bytes: nil)
          }
        }
        if batch.isFull { _ = try batch.update() }
      }
      _ = try batch.update()
    } catch {
      batch.discardLoose()
      throw error
    }
  }

  private func remove(
    _ key: UnsafeRawBufferPointer, _ change: Int, noting replaced: ReplacedValues
  ) throws(NVMError) {
    let isThere = try withSearchKey(key) { (key) throws(NVMError) -> Bool in
      try engine.withValueBytes(key) { (bytes) throws(NVMError) -> Bool in
        if let bytes { replaced.note(change, bytes) }
        return bytes != nil
      }
    }
    guard isThere else { return }
    _ = try withSearchKey(key) { (key) throws(NVMError) -> UpdateOutcome in
      try engine.remove(key, condition: .always)
    }
  }

  /// Takes back what ``exchange(_:noting:)`` noted. Entries that were new go first: that makes room.
  package func removeNew(
    _ changes: [EncodedChange], _ replaced: ReplacedValues
  ) throws(NVMError) {
    try replaced.forEach { (i, old) throws(NVMError) in
      if old == nil { try removeValue(forKey: [UInt8](changes[i].key)) }
    }
    settle()
  }
  /// Then the values that were there.
  package func putBack(
    _ changes: [EncodedChange], _ replaced: ReplacedValues
  ) throws(NVMError) {
    try replaced.forEach { (i, old) throws(NVMError) in
      if let old { try setValue(old, forKey: [UInt8](changes[i].key)) }
    }
  }
}
