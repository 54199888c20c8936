import CNVM
import NVMRegion

// What a search for units in vain has shown, so that the next need not search again.
//
// In a full heap each block whose class has none that has rested would else look through all classes for empty slabs, and try
// to grow, before the oldest resting block is used. Such a search ends the same as long as nothing came free that it would
// find: no extent was freed, no slab emptied (each counts as a gain), and nothing has rested that had not then. So it costs
// what it costs once for each of these, however many blocks are allocated meanwhile.
//
// Words without a lock. Who reads a moment late searches once more, or uses a resting block where a slab might have been
// had: both are harmless, since no allocation fails by what is noted here.
extension PersistentHeap {
  /// What a search has found.
  struct Findings {
    /// Whether slabs were given back.
    var hasGained = false
    /// Whether there was more to be settled than is settled at a time.
    var isCut = false
    /// In so many ticks the oldest that rests will have rested.
    var restsFor = UInt32.max
  }

  /// Notes that units came free, or may: from now on a search may find what none has found before.
  func noteGain() { _ = nvm_fetch_add_relaxed(control + Control.gains, 1) }
  /// How many gains there were; to be read before a search.
  var gains: UInt64 {
    nvm_load_acquire(control + Control.gains) &+ UInt64(truncatingIfNeeded: shares.sumOfObjects { $0.gains })
  }

  /// Whether it is known that there are not so many units in one piece, without using what has not rested.
  func isShort(of units: Int) -> Bool {
    let least = nvm_load_acquire(control + Control.shortUnits)
    guard least != 0, units >= Int(truncatingIfNeeded: least) else { return false }
    guard nvm_load_relaxed(control + Control.shortGains) == gains else { return false }
    let ends = UInt32(truncatingIfNeeded: nvm_load_relaxed(control + Control.shortUntil))
    return Int32(bitPattern: now() &- ends) < 0
  }

  /// Notes that a search for so many units, growth included, was in vain.
  /// - Parameters:
  ///   - gains: before it began.
  ///   - cause: why the heap did not grow.
  func noteShortage(of units: Int, since gains: UInt64, _ findings: Findings, cause: NVMError?) {
    // Without a quarantine what is freed has rested at once.
    guard restTicks > 0, !findings.isCut else { return }
    // What is freed from now on will not have rested sooner. More than the heap may have it never gets; of a disk it is not
    // known.
    var ticks = min(findings.restsFor, restTicks, Self.longestShortage)
    if cause?.code != .outOfSpace { ticks = min(ticks, Self.shortageOfDisk) }
    guard ticks > 0 else { return }
    let until = now() &+ ticks
    let least = isShort(of: units) ? nvm_load_relaxed(control + Control.shortUnits) : UInt64(units)
    nvm_store_relaxed(control + Control.shortGains, gains)
    nvm_store_relaxed(control + Control.shortUntil, UInt64(until))
    nvm_store_release(control + Control.shortUnits, least)
  }
  /// Ticks, so that the comparison above holds.
  private static let longestShortage: UInt32 = 1 << 30
  /// About as many milliseconds until a full disk is asked again.
  private static let shortageOfDisk: UInt32 = 64

  /// How often all classes were searched for empty slabs: for tests.
  package var searchCount: Int { Int(truncatingIfNeeded: nvm_load_relaxed(control + Control.searches)) }
}
