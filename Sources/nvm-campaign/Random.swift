/// SplitMix64: a run is repeated from its seed.
struct Random: RandomNumberGenerator {
  private var state: UInt64
  init(_ seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
  /// 0 ..< limit.
  mutating func below(_ limit: Int) -> Int { Int(next() % UInt64(limit)) }
  mutating func oneIn(_ n: Int) -> Bool { below(n) == 0 }
  /// Between 1 and `limit`, each order of magnitude as likely as any other.
  mutating func magnitude(_ limit: Int) -> Int {
    let bits = limit.bitWidth - limit.leadingZeroBitCount
    return min(limit, 1 + below(1 << below(bits + 1)))
  }
}
