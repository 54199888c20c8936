import CBench
import Foundation

/// The workloads as traces, the same for every contestant. Slots of thread t start at t * `slotsPerThread`.
struct Trace {
  var name: String
  /// Untimed, before; and after, so that the heap is empty again.
  var prepare: [bench_step] = []
  var steps: [bench_step]
  var cleanUp: [bench_step] = []
  /// Steps that count as one operation.
  var stepsPerOperation = 1
  /// Contestants that link take part: they make the bytes durable too, which is fair for small blocks only.
  var isSmall = true
  /// Whether neighbouring steps can be published together: not where a block is freed right after it was made.
  var canGroup = true

  static func pairs(_ name: String, size: Int, count: Int) -> Trace {
    var steps: [bench_step] = []
    steps.reserveCapacity(2 * count)
    for _ in 0..<count {
      steps.append(bench_step(slot: 0, size: UInt32(size)))
      steps.append(bench_step(slot: 0, size: 0))
    }
    return Trace(
      name: name, steps: steps, stepsPerOperation: 2, isSmall: size <= 512,
      canGroup: false)
  }

  /// `live` slots; each operation frees one at random and allocates another size into it.
  static func replacing(
    _ name: String, live: Int, count: Int, random: inout Random, isSmall: Bool, stepsPerOperation: Int = 2,
    size: (inout Random) -> Int
  ) -> Trace {
    var steps: [bench_step] = []
    steps.reserveCapacity(2 * count)
    let prepare = (0..<live).map { bench_step(slot: UInt32($0), size: UInt32(size(&random))) }
    for _ in 0..<count {
      let slot = UInt32(Int.random(in: 0..<live, using: &random))
      steps.append(bench_step(slot: slot, size: 0))
      steps.append(bench_step(slot: slot, size: UInt32(size(&random))))
    }
    let cleanUp = (0..<live).map { bench_step(slot: UInt32($0), size: 0) }
    return Trace(
      name: name, prepare: prepare, steps: steps, cleanUp: cleanUp, stepsPerOperation: stepsPerOperation,
      isSmall: isSmall, canGroup: false)
  }

  static func threadTest(_ name: String, live: Int, count: Int) -> Trace {
    var steps: [bench_step] = []
    for _ in 0..<max(1, count / live) {
      for i in 0..<live { steps.append(bench_step(slot: UInt32(i), size: 64)) }
      for i in 0..<live { steps.append(bench_step(slot: UInt32(i), size: 0)) }
    }
    return Trace(name: name, steps: steps, stepsPerOperation: 2)
  }

  static func allocating(_ name: String, count: Int) -> Trace {
    let up = (0..<count).map { bench_step(slot: UInt32($0), size: 64) }
    let down = (0..<count).map { bench_step(slot: UInt32($0), size: 0) }
    return Trace(name: name, prepare: [], steps: up, cleanUp: down)
  }

  static func freeing(_ name: String, count: Int, random: inout Random) -> Trace {
    let up = (0..<count).map { bench_step(slot: UInt32($0), size: 64) }
    let down = (0..<count).shuffled(using: &random).map { bench_step(slot: UInt32($0), size: 0) }
    return Trace(name: name, prepare: up, steps: down)
  }

  /// Sizes whose logarithm is uniform.
  static func logUniform(_ range: ClosedRange<Double>, _ random: inout Random) -> Int {
    Int(exp(Double.random(in: log(range.lowerBound)...log(range.upperBound), using: &random)))
  }
}
