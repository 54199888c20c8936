/// The contents that one dirty unit may have after a crash.
///
/// Variant 0 is *low* (nothing of the pending stores arrived), variant 1 *high* (everything did). No content
/// stands twice.
struct UnitVariants {
  let unit: Int
  let unitWords: Int
  private let groups: [MediaState.Group]
  /// `unitWords` words each.
  private(set) var contents: [UInt64]
  /// What each variant adds to the hash of the base image.
  private(set) var deltas: [UInt64]
  /// Whether the variants are all there are.
  let isComplete: Bool
  private var seen: Set<UInt64> = []
  private let base: [UInt64]

  var count: Int { deltas.count }
  static let low = 0
  var high: Int { count > 1 ? 1 : 0 }

  /// Which groups are there: the ordered ones before `prefix`, of the next one the words in `torn`, and the
  /// non-temporal words in `loose`, one mask per group.
  private struct Choice {
    var prefix = 0
    var torn: UInt64 = 0
    var loose: [UInt64]
  }

  /// - Parameters:
  ///   - limit: up to so many variants are all listed.
  ///   - coarse: only low and high.
  init(unit: Int, state: MediaState, limit: Int, coarse: Bool) {
    self.unit = unit
    unitWords = state.unitWords
    groups = state.dirty[unit]!.groups
    base = (0..<unitWords).map { state.base[unit * state.unitWords + $0] }
    contents = []
    deltas = []
    let ordered = groups.filter { $0.isOrdered }
    let loose = groups.filter { !$0.isOrdered }
    let total = Self.count(ordered, loose)
    isComplete = total <= limit && !coarse
    let none = loose.map { _ in UInt64(0) }
    let all = loose.map { Self.mask($0.words.count) }
    add(Choice(prefix: 0, loose: none))
    add(Choice(prefix: ordered.count, loose: all))
    if coarse { return }
    if isComplete {
      Self.forEachMask(all) { masks in
        for (i, group) in ordered.enumerated() {
          add(Choice(prefix: i, loose: masks))
          var torn: UInt64 = 1
          while torn < Self.mask(group.words.count) {
            add(Choice(prefix: i, torn: torn, loose: masks))
            torn += 1
          }
        }
        add(Choice(prefix: ordered.count, loose: masks))
      }
    } else {
      addTypical(ordered, none: none, all: all)
    }
  }

  /// Each boundary between groups; of each group every word alone and all but it; loose words likewise.
  private mutating func addTypical(_ ordered: [MediaState.Group], none: [UInt64], all: [UInt64]) {
    for masks in none == all ? [none] : [none, all] {
      for (i, group) in ordered.enumerated() {
        add(Choice(prefix: i, loose: masks))
        for bit in 0..<group.words.count where group.words.count > 1 {
          add(Choice(prefix: i, torn: 1 << UInt64(bit), loose: masks))
          add(Choice(prefix: i, torn: Self.mask(group.words.count) & ~(1 << UInt64(bit)), loose: masks))
        }
      }
      add(Choice(prefix: ordered.count, loose: masks))
    }
    for (g, mask) in all.enumerated() {
      for bit in 0..<64 where mask >> UInt64(bit) & 1 != 0 {
        for prefix in [0, ordered.count] {
          var masks = none
          masks[g] = 1 << UInt64(bit)
          add(Choice(prefix: prefix, loose: masks))
          masks = all
          masks[g] &= ~(1 << UInt64(bit))
          add(Choice(prefix: prefix, loose: masks))
        }
      }
    }
  }

  /// A random variant; one that was not listed is added.
  mutating func random(_ generator: inout SeededGenerator) -> Int {
    if isComplete { return generator.below(count) }
    // Mostly whole: an image with every line torn at random tells little.
    switch generator.next() & 7 {
    case 0, 1: return Self.low
    case 2, 3: return high
    case 4, 5: return generator.below(count)
    default: break
    }
    let ordered = groups.filter { $0.isOrdered }
    let loose = groups.filter { !$0.isOrdered }
    var choice = Choice(prefix: generator.below(ordered.count + 1), loose: [])
    if choice.prefix < ordered.count {
      choice.torn = generator.next() & Self.mask(ordered[choice.prefix].words.count)
    }
    choice.loose = loose.map { generator.next() & Self.mask($0.words.count) }
    return add(choice)
  }

  /// The content of a variant.
  func content(_ variant: Int) -> ArraySlice<UInt64> {
    contents[variant * unitWords..<(variant + 1) * unitWords]
  }

  /// The event that last stored a word, if it is pending.
  func writer(of word: Int) -> Int? {
    for group in groups.reversed() {
      if let found = group.words.last(where: { $0.index == word }) { return found.event }
    }
    return nil
  }

  /// Adds a content unless it is there; returns its index.
  @discardableResult
  private mutating func add(_ choice: Choice) -> Int {
    let start = contents.count
    contents += base
    var ordered = 0
    var loose = 0
    for group in groups {
      var mask: UInt64
      if group.isOrdered {
        mask = ordered < choice.prefix ? ~0 : ordered == choice.prefix ? choice.torn : 0
        ordered += 1
      } else {
        mask = choice.loose[loose]
        loose += 1
      }
      for word in group.words {
        if mask & 1 != 0 { contents[start + word.index] = word.value }
        mask >>= 1
      }
    }
    var delta: UInt64 = 0
    for i in 0..<unitWords where contents[start + i] != base[i] {
      let at = unit * unitWords + i
      delta = delta &- MediaState.wordHash(at, base[i]) &+ MediaState.wordHash(at, contents[start + i])
    }
    if !seen.insert(delta).inserted {
      contents.removeLast(unitWords)
      return deltas.firstIndex(of: delta)!
    }
    deltas.append(delta)
    return deltas.count - 1
  }

  private static func mask(_ bits: Int) -> UInt64 { bits >= 64 ? ~0 : (1 << UInt64(bits)) - 1 }

  /// How many choices of pending stores a unit has, at most `Int.max`. Some may have the same content.
  static func count(_ groups: [MediaState.Group]) -> Int {
    count(groups.filter { $0.isOrdered }, groups.filter { !$0.isOrdered })
  }

  private static func count(_ ordered: [MediaState.Group], _ loose: [MediaState.Group]) -> Int {
    var n = 1
    for group in ordered {
      n = saturatingAdd(n, group.words.count >= 62 ? .max : (1 << group.words.count) - 1)
    }
    for group in loose { n = saturatingMultiply(n, group.words.count >= 62 ? .max : 1 << group.words.count) }
    return n
  }

  /// Every combination of submasks of `all`.
  private static func forEachMask(_ all: [UInt64], _ body: ([UInt64]) -> Void) {
    var masks = all.map { _ in UInt64(0) }
    while true {
      body(masks)
      var i = 0
      while i < masks.count {
        if masks[i] < all[i] {
          masks[i] += 1
          break
        }
        masks[i] = 0
        i += 1
      }
      if i == masks.count { return }
    }
  }
}

func saturatingAdd(_ a: Int, _ b: Int) -> Int {
  let (r, overflow) = a.addingReportingOverflow(b)
  return overflow ? .max : r
}
func saturatingMultiply(_ a: Int, _ b: Int) -> Int {
  let (r, overflow) = a.multipliedReportingOverflow(by: b)
  return overflow ? .max : r
}
