/// The images of one crash point: one variant of each dirty unit.
///
/// Where there are at most `exhaustiveLimit` of them, all. Beyond: none and all of the pending stores; each
/// unit alone at each of its variants with the others all low and all high; each ordered pair of units, one
/// high and one low, the others at random; then random ones.
struct ImageEnumerator {
  private(set) var units: [UnitVariants]
  private var generator: SeededGenerator
  private let options: CrashOptions
  /// How many legal images there are, at most `Int.max`.
  private(set) var total: Int

  /// - Parameter headerUnits: units below this one are only taken whole (the region's own superblock,
  ///   which scenarios of its own explore).
  init(state: MediaState, options: CrashOptions, generator: SeededGenerator, headerUnits: Int) {
    self.options = options
    self.generator = generator
    units = []
    total = 1
    let dirty = state.dirty.keys.sorted()
    var choices = 1
    for unit in dirty {
      choices = saturatingMultiply(
        choices, unit < headerUnits ? 2 : UnitVariants.count(state.dirty[unit]!.groups))
    }
    // Where not everything can be tried, a few typical variants of each unit tell more than all of one.
    let limit = choices <= options.exhaustiveLimit ? options.exhaustiveLimit : 32
    for unit in dirty {
      let variants = UnitVariants(unit: unit, state: state, limit: limit, coarse: unit < headerUnits)
      guard variants.count > 1 else { continue }
      units.append(variants)
      // What a coarse unit leaves out is not counted: it belongs to another scenario.
      let complete = variants.isComplete || unit < headerUnits
      total = saturatingMultiply(total, complete ? variants.count : .max)
    }
  }

  /// Calls `body` with one variant index per unit until it returns false. Returns how many were given.
  mutating func forEach(limit: Int, _ body: ([Int], [UnitVariants]) -> Bool) -> Int {
    var given = 0
    var goesOn = true
    func give(_ choice: [Int], _ units: [UnitVariants]) {
      guard goesOn else { return }
      guard given < limit else {
        goesOn = false
        return
      }
      given += 1
      goesOn = body(choice, units)
    }
    let low = units.map { _ in UnitVariants.low }
    let high = units.map { $0.high }
    if total <= min(options.exhaustiveLimit, limit) {
      var choice = low
      while goesOn {
        give(choice, units)
        guard let i = choice.indices.first(where: { choice[$0] + 1 < units[$0].count }) else { break }
        choice[i] += 1
        for j in 0..<i { choice[j] = 0 }
      }
      return given
    }
    give(low, units)
    give(high, units)
    // With a small limit a few random images come first, so that not only the extremes are seen.
    if limit < options.randomImages { giveRandom(limit / 2, give, { goesOn }) }
    for i in units.indices {
      for variant in 0..<units[i].count where goesOn {
        var choice = low
        choice[i] = variant
        give(choice, units)
        choice = high
        choice[i] = variant
        give(choice, units)
      }
    }
    giveRandom(options.randomImages, give, { goesOn })
    for i in units.indices {
      for j in units.indices where i != j && goesOn {
        var choice = units.map { $0.high * Int(generator.next() & 1) }
        choice[i] = units[i].high
        choice[j] = UnitVariants.low
        give(choice, units)
      }
    }
    return given
  }

  private mutating func giveRandom(_ n: Int, _ give: ([Int], [UnitVariants]) -> Void, _ goesOn: () -> Bool) {
    for _ in 0..<n where goesOn() {
      var choice: [Int] = []
      for i in units.indices { choice.append(units[i].random(&generator)) }
      give(choice, units)
    }
  }
}
