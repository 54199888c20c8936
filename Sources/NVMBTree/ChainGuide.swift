import CNVM

/// The chain of leaves as it probably runs: where recovery should look next.
///
/// Following a chain link by link waits for memory at each link. Here many walkers go at once, each from one of a few
/// hundred places spread over the nodes to the next of them; put together, their ways are the chain. It is a guide
/// only: recovery follows and checks the links themselves, and damage makes the guide wrong, not the result.
struct ChainGuide {
  struct Step {
    var node: UInt32
    /// Where the node's summary is.
    var at: UInt32
  }
  private(set) var steps: [Step] = []

  private static let walkers = 16

  /// - Parameters:
  ///   - starts: nodes to walk from, the chain's first one at the head.
  ///   - places: where a node's summary is.
  init(_ summaries: UnsafeMutableBufferPointer<LeafSummary>, from starts: [Step], _ places: NodePlaces) {
    var segmentAt = [Int32](repeating: -1, count: summaries.count)
    for (i, start) in starts.enumerated() where segmentAt[Int(start.at)] < 0 {
      segmentAt[Int(start.at)] = Int32(i)
    }
    var segments = [[Step]](repeating: [], count: starts.count)
    var begun = 0
    var total = 0
    var walking: [(segment: Int, at: Step)] = []
    func begin() -> (segment: Int, at: Step)? {
      guard begun < starts.count else { return nil }
      defer { begun += 1 }
      return (begun, starts[begun])
    }
    while walking.count < Self.walkers, let walker = begin() { walking.append(walker) }
    // Damage may have made a circle without a start in it.
    while !walking.isEmpty, total <= 2 * summaries.count {
      var i = 0
      while i < walking.count {
        let (segment, step) = walking[i]
        segments[segment].append(step)
        total += 1
        let next = summaries[Int(step.at)].next
        if next != 0, let at = places[next], segmentAt[at] < 0 {
          nvm_prefetch(UnsafeRawPointer(summaries.baseAddress! + at))
          walking[i].at = Step(node: next, at: UInt32(at))
        } else if let walker = begin() {
          walking[i] = walker
        } else {
          walking.remove(at: i)
          continue
        }
        i += 1
      }
    }
    // From the first one on, each segment by the start that its last link leads to.
    var joined = [Bool](repeating: false, count: starts.count)
    var segment = 0
    steps.reserveCapacity(min(total, summaries.count))
    while segment >= 0, segment < starts.count, !joined[segment], let last = segments[segment].last {
      joined[segment] = true
      steps += segments[segment]
      let next = summaries[Int(last.at)].next
      guard next != 0, let at = places[next] else { break }
      segment = Int(segmentAt[at])
    }
  }
}
