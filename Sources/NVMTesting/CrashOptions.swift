/// How far the explorer looks.
///
/// The defaults check every image where a crash point has at most 4,096 of them and a systematic sample
/// elsewhere; one scenario of some 20 operations takes seconds.
public struct CrashOptions: Sendable {
  /// The fault model.
  public var model: CrashModel = .cacheLine
  /// Seeds the random images (and the pauses of scenarios with several threads). Printed with every failure.
  public var seed: UInt64 = 1
  /// A crash point with no more images than this has all of them checked.
  public var exhaustiveLimit = 4096
  /// Random images at a crash point that has more.
  public var randomImages = 256
  /// The most images checked at one crash point; the rest count as skipped.
  public var imagesPerPoint = 6000
  /// The most images of the whole exploration, spread over its crash points; `nil` for no such limit.
  public var maximumImages: Int?
  /// How deep crashes are nested: 1 crashes inside recovery, 2 inside the recovery after that.
  public var recoveryDepth = 2
  /// Images per crash point whose recovery is itself crashed.
  public var recoveriesPerPoint = 8
  /// The most images checked at one crash point inside a recovery.
  public var imagesPerRecoveryPoint = 40
  /// Runs the scenario's continuation on every n-th image that was not seen before; 0 never.
  public var continuationInterval = 1
  /// An image that takes longer ends the process with a message naming scenario, seed and crash point.
  public var timeLimit: Duration = .seconds(60)
  /// Violations after which exploring stops.
  public var maximumViolations = 4
  /// Reduces a failing image to the fewest missing lines.
  public var shrinks = true

  public init(model: CrashModel = .cacheLine, seed: UInt64 = 1) {
    self.model = model
    self.seed = seed
  }
}

/// A small seeded generator (SplitMix64): the same numbers on every machine.
public struct SeededGenerator: RandomNumberGenerator, Sendable {
  private var state: UInt64

  public init(seed: UInt64) { state = seed }

  public mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    return SeededGenerator.mix(state)
  }

  static func mix(_ x: UInt64) -> UInt64 {
    var z = x
    z = (z ^ (z &>> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z &>> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z &>> 31)
  }

  /// A number in `0 ..< bound`; `bound` must be positive.
  public mutating func below(_ bound: Int) -> Int {
    Int(truncatingIfNeeded: next().multipliedFullWidth(by: UInt64(bound)).high)
  }
}
