import CNVM
public import NVMRegion

// Several operations at once. A single one waits for memory three times, each time for what the time before brought
// (inner node, first line of the leaf, slot); a group goes through the same steps side by side, so that its members'
// misses overlap:
//
//     descend   all, level by level            → leaf known, its lines on their way
//     look      all: fingerprints              → slot known, its line (or record) on its way
//     read      all, each checked against its leaf's version; who met a writer is looked up again alone

/// A group of keys on their way through the tree. Not thread-safe; used by one call.
@usableFromInline final class TreeBatch {
  /// Enough to hide a miss behind the others, few enough to stay in the nearest cache.
  @usableFromInline static var capacity: Int { Int(NVM_BATCH) }

  struct Step {
    var node: UInt32
    var isLost: Bool
    var fingerprint: UInt8
    /// Of the lowest inner node, then of the leaf's lock word.
    var version: UInt64
    var parent: UnsafeMutableRawPointer
    var parentVersion: UInt64
    /// Which separators of the lowest inner node decide.
    var part = 0
    /// Of an update: which of the group's leaves.
    var pending = 0

    var position: Position {
      Position(leaf: node, version: version)
    }
  }

  let engine: TreeEngine
  @exclusivity(unchecked) @usableFromInline var count = 0
  @usableFromInline let keys: UnsafeMutablePointer<SearchKey>
  /// What was found, or is to be stored.
  @usableFromInline let words: UnsafeMutablePointer<UInt64>
  /// Bit i: there is an entry for key i.
  @exclusivity(unchecked) @usableFromInline var found: UInt32 = 0
  let steps: UnsafeMutablePointer<Step>
  // Of trees whose keys are words.
  @usableFromInline let heads: UnsafeMutablePointer<UInt64>
  private let places: UnsafeMutablePointer<nvm_place>
  private let copies: UnsafeMutablePointer<KeyCopy>

  // Of updates only.
  let pending: UnsafeMutablePointer<PendingLeaf>
  @exclusivity(unchecked) var pendingCount = 0
  @exclusivity(unchecked) var pendingInserts = 0
  @exclusivity(unchecked) var insertedCount = 0
  /// After a crash all of the group is there or nothing.
  @exclusivity(unchecked) var isAtomic = false
  /// Records to be retired when the group is durable.
  @exclusivity(unchecked) var replaced: [Offset] = []
  /// Bit i: word i leads to a record that no leaf refers to yet.
  @exclusivity(unchecked) var loose: UInt32 = 0
  /// Of a transaction's: takes what is replaced, by the number of the change.
  @exclusivity(unchecked) var noted: ReplacedValues?
  let changes: UnsafeMutablePointer<Int>

  @usableFromInline init(_ engine: TreeEngine) {
    self.engine = engine
    keys = .allocate(capacity: Self.capacity)
    words = .allocate(capacity: Self.capacity)
    steps = .allocate(capacity: Self.capacity)
    pending = .allocate(capacity: Self.capacity)
    changes = .allocate(capacity: Self.capacity)
    heads = .allocate(capacity: Self.capacity)
    places = .allocate(capacity: Self.capacity)
    copies = .allocate(capacity: Self.capacity)
    copies.initialize(repeating: KeyCopy(), count: Self.capacity)
  }

  deinit {
    for i in 0..<Self.capacity { copies[i].release() }
    keys.deallocate()
    words.deallocate()
    steps.deallocate()
    pending.deallocate()
    changes.deallocate()
    heads.deallocate()
    places.deallocate()
    copies.deallocate()
  }

  @inlinable var isFull: Bool { count == Self.capacity }
  @usableFromInline func removeAll() { count = 0 }

  /// Adds a key; its bytes are copied.
  @usableFromInline func add(_ key: SearchKey) {
    heads[count] = key.head
    if key.bytes == nil {
      keys[count] = key
    } else {
      copies[count].set(key)
      keys[count] = copies[count].key!
    }
    count &+= 1
  }

  /// Adds a key that is its head.
  @inlinable func add(head: UInt64) {
    heads[count] = head
    keys[count] = SearchKey(head: head)
    count &+= 1
  }

  /// Adds the key of a transaction's change.
  func add(_ key: SearchKey, change: Int) {
    changes[count] = change
    add(key)
  }

  /// Finds all keys: `words` and `found`. For keys longer than their head, and for records, the caller's epoch must be
  /// pinned.
  @usableFromInline func lookUp() throws(NVMError) {
    try engine.region.checkUsable()
    guard engine.isReadable else { throw engine.sealedError() }
    let ticket = try engine.gate.ticket()
    if !engine.keysAreBytes, !engine.options.verifiesReads { return try lookUpWords(ticket) }
    found = 0
    descend(fetchingAll: false)
    for i in 0..<count { look(i) }
    if engine.keysAreBytes { for i in 0..<count { fetchRecords(i) } }
    for i in 0..<count { read(i) }
    // Checking reads, too, come one by one.
    let isCurrent = engine.gate.isCurrent(ticket) && !engine.options.verifiesReads
    if engine.isMarked {
      for i in 0..<count where !steps[i].isLost { try engine.awaitDurable(steps[i].node) }
    }
    for i in 0..<count where steps[i].isLost || !isCurrent { try lookUpAlone(i) }
    try checkMissing()
  }

  /// The same where all keys are words.
  private func lookUpWords(_ ticket: UInt64) throws(NVMError) {
    let leaves = engine.region.baseAddress
    engine.space.descend(heads, count, root: engine.rootWord, leaves: leaves, to: places)
    found = engine.space.find(heads, count, leaves: leaves, at: places, to: words)
    let isCurrent = engine.gate.isCurrent(ticket)
    if engine.isMarked {
      for i in 0..<count where places[i].version & 1 == 0 {
        try engine.awaitDurable(UInt32(truncatingIfNeeded: places[i].leaf))
      }
    }
    for i in 0..<count where places[i].version & 1 != 0 || !isCurrent { try lookUpAlone(i) }
    try checkMissing()
  }

  @inline(never) private func lookUpAlone(_ i: Int) throws(NVMError) {
    found &= ~(1 << UInt32(i))
    guard let word = try engine.lookup(keys[i]) else { return }
    words[i] = word
    found |= 1 << UInt32(i)
  }

  /// In a damaged tree "not there" is not known.
  private func checkMissing() throws(NVMError) {
    if found.nonzeroBitCount < count, engine.isSealed { throw engine.sealedError() }
  }

  // MARK: Steps

  /// Brings each key to its leaf, whose first line (or all of them, for a change) is then on its way to the cache.
  func descend(fetchingAll: Bool) {
    if !engine.keysAreBytes { return descendWords(fetchingAll: fetchingAll) }
    let space = engine.space
    let root = nvm_load_acquire(engine.rootWord)
    var height = root >> 32
    for i in 0..<count {
      steps[i] = Step(
        node: UInt32(truncatingIfNeeded: root), isLost: false, fingerprint: keys[i].fingerprint, version: 0,
        parent: engine.rootWord, parentVersion: root)
    }
    while height > 0 {
      // The lowest of the inner nodes are many: there the lines that decide are fetched first.
      let isLowest = height == 1
      if isLowest {
        for i in 0..<count where !steps[i].isLost {
          let inner = space.inner(steps[i].node)
          steps[i].version = nvm_load_acquire(inner.version)
          steps[i].part = inner.part(for: keys[i].head)
          inner.prefetch(part: steps[i].part)
        }
      }
      for i in 0..<count where !steps[i].isLost {
        let inner = space.inner(steps[i].node)
        let version = isLowest ? steps[i].version : nvm_load_acquire(inner.version)
        var isCurrent = version & 1 == 0 && nvm_load_relaxed(steps[i].parent) == steps[i].parentVersion
        if isCurrent {
          let key = keys[i]
          steps[i].node = inner.child(
            isLowest ? inner.childIndex(for: key, part: steps[i].part) : inner.childIndex(for: key))
          nvm_acquire_fence()
          isCurrent = nvm_load_relaxed(inner.version) == version
        }
        if height == 2 { nvm_prefetch(space.inner(steps[i].node).base) }
        steps[i].isLost = !isCurrent
        steps[i].parent = inner.version
        steps[i].parentVersion = version
      }
      height &-= 1
    }
    for i in 0..<count where !steps[i].isLost {
      nvm_prefetch(space.lockWord(steps[i].node))
      if fetchingAll {
        engine.prefetchLeaf(steps[i].node)
      } else {
        nvm_prefetch(engine.leaf(steps[i].node).base)
      }
    }
    for i in 0..<count where !steps[i].isLost {
      steps[i].version = nvm_load_acquire(engine.space.lockWord(steps[i].node))
      steps[i].isLost =
        steps[i].version & 1 != 0 || nvm_load_relaxed(steps[i].parent) != steps[i].parentVersion
    }
  }

  private func descendWords(fetchingAll: Bool) {
    let leaves = engine.region.baseAddress
    engine.space.descend(heads, count, root: engine.rootWord, leaves: leaves, to: places)
    for i in 0..<count {
      let place = places[i]
      steps[i].node = UInt32(truncatingIfNeeded: place.leaf)
      steps[i].isLost = place.version & 1 != 0
      steps[i].version = place.version
      steps[i].fingerprint = nvm_fingerprint(heads[i])
      if fetchingAll { engine.prefetchLeaf(steps[i].node) }
    }
  }

  @inline(__always) private func look(_ i: Int) {
    guard !steps[i].isLost else { return }
    let leaf = engine.leaf(steps[i].node)
    let candidates = leaf.matches(steps[i].fingerprint) & leaf.commit.live
    nvm_prefetch(leaf.base + LeafLayout.slot(candidates.trailingZeroBitCount & 31))
  }

  private func fetchRecords(_ i: Int) {
    guard !steps[i].isLost, keys[i].bytes != nil else { return }
    let leaf = engine.leaf(steps[i].node)
    var candidates = leaf.matches(steps[i].fingerprint) & leaf.commit.live
    while candidates != 0 {
      let slot = candidates.trailingZeroBitCount
      candidates &= candidates &- 1
      if leaf.head(slot) == keys[i].head { engine.prefetchRecord(keys[i].head, leaf.word(slot)) }
    }
  }

  @inline(__always) private func read(_ i: Int) {
    guard !steps[i].isLost else { return }
    let leaf = engine.leaf(steps[i].node)
    if let slot = engine.find(keys[i], in: leaf, live: leaf.commit.live, fingerprint: steps[i].fingerprint) {
      words[i] = leaf.word(slot)
      found |= 1 &<< UInt32(i)
    }
    steps[i].isLost = !engine.isUnchanged(steps[i].position)
  }
}
