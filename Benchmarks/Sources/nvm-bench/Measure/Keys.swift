import Foundation

/// SplitMix64: from one seed, the same numbers for every contestant.
struct Random: RandomNumberGenerator {
  private var state: UInt64
  init(seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    return Self.mix(state)
  }
  /// A bijection: distinct numbers stay distinct.
  @inline(__always) static func mix(_ x: UInt64) -> UInt64 {
    var z = x
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}

/// Distinct random keys, numbered: 0 ..< n are in the tree after loading, those above are not.
struct KeySpace {
  let seed: UInt64
  @inline(__always) func key(_ i: Int) -> UInt64 { Random.mix(seed &+ UInt64(i)) }
  func keys(_ range: Range<Int>) -> [UInt64] { range.map(key) }
}

/// Zipfian ranks with the constant 0.99, as YCSB draws them (Gray et al.), scattered over the keys by a hash.
struct Zipfian {
  private let n: Double
  private let theta = 0.99
  private let zeta: Double
  private let alpha: Double
  private let eta: Double

  init(_ n: Int) {
    self.n = Double(n)
    var sum = 0.0
    for i in 1...n { sum += 1 / pow(Double(i), 0.99) }
    zeta = sum
    alpha = 1 / (1 - theta)
    eta = (1 - pow(2 / self.n, 1 - theta)) / (1 - (1 + pow(0.5, theta)) / sum)
  }
  func index(_ random: inout Random) -> Int {
    let u = Double(random.next() >> 11) * 0x1p-53
    let uz = u * zeta
    let rank: Double =
      if uz < 1 { 0 } else if uz < 1 + pow(0.5, theta) { 1 } else { n * pow(eta * u - eta + 1, alpha) }
    return Int(Random.mix(UInt64(rank)) % UInt64(n))
  }
}
