import Foundation
import NVM

// RandomKeys [COUNT] [FILE]
//
// COUNT random 8-byte keys with 8-byte values, inserted one by one, each durable before the next, then looked up in
// another order; with fences and lines for each operation. By default 5,000,000 on tmpfs as emulated memory.

let count = Int(CommandLine.arguments.dropFirst().first ?? "") ?? 5_000_000
let path = CommandLine.arguments.dropFirst(2).first ?? "/dev/shm/random-keys-\(getpid()).nvm"

/// A permutation of the 64-bit integers, so that every key is new.
func scrambled(_ i: Int) -> UInt64 {
  var z = UInt64(i) &* 0x9E37_79B9_7F4A_7C15
  z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
  z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
  return z ^ (z >> 31)
}

func report(_ what: String, _ duration: Duration, _ counters: RegionCounters) {
  let seconds = Double(duration.components.seconds) + Double(duration.components.attoseconds) / 1e18
  func each(_ n: UInt64) -> Double { (Double(n) / Double(count) * 1000).rounded() / 1000 }
  print(
    "\(count) \(what): \(Int(Double(count) / seconds)) a second (\(Int(seconds * 1e9 / Double(count))) ns), "
      + "\(each(counters.fences)) fences, \(each(counters.orders)) orders, \(each(counters.lines)) lines each"
  )
}

do {
  defer { try? FileManager.default.removeItem(atPath: path) }
  let store = try NVMStore(path: path, options: NVMStoreOptions(media: .emulated, initialSize: 256 << 20))
  let tree = try store.tree("numbers", of: UInt64.self, UInt64.self)
  let clock = ContinuousClock()

  var before = store.region.counters
  let inserting = try clock.measure {
    for i in 0..<count { try tree.setValue(UInt64(i), forKey: scrambled(i)) }
  }
  report("random inserts", inserting, store.region.counters - before)

  before = store.region.counters
  var wrong = 0
  let lookingUp = try clock.measure {
    for i in 0..<count {
      let n = Int(scrambled(i) % UInt64(count))
      if try tree[scrambled(n)] != UInt64(n) { wrong += 1 }
    }
  }
  report("random look-ups", lookingUp, store.region.counters - before)
  guard wrong == 0, tree.count == count else { fatalError("\(wrong) look-ups were wrong") }

  try store.close()
  let reopening = try clock.measure {
    let again = try NVMStore.open(path: path, options: NVMStoreOptions(media: .emulated))
    guard try again.tree("numbers", of: UInt64.self, UInt64.self).count == count else {
      fatalError("entries are missing")
    }
    try again.close()
  }
  print("reopened, with all inner nodes rebuilt, in \(reopening)")
} catch {
  print(error)
  exit(1)
}
