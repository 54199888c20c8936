import CBench
import Histogram

/// Latencies of single operations, in an HDR histogram of nanoseconds with three significant digits.
struct LatencyHistogram {
  private var histogram: Histogram<UInt64>?

  /// Ticks of the time stamp counter for a nanosecond, measured once over 50 ms.
  static let ticksPerNanosecond: Double = {
    let t0 = bench_ns()
    let c0 = bench_ticks()
    while bench_ns() - t0 < 50_000_000 {}
    let c1 = bench_ticks()
    return Double(c1 - c0) / Double(bench_ns() - t0)
  }()

  mutating func record(_ ticks: UnsafeBufferPointer<UInt32>) {
    if histogram == nil {
      histogram = Histogram<UInt64>(
        highestTrackableValue: 60_000_000_000, numberOfSignificantValueDigits: .three)
    }
    let scale = 1 / Self.ticksPerNanosecond
    for t in ticks { _ = histogram!.record(UInt64(Double(t) * scale)) }
  }

  var percentiles: (Double?, Double?, Double?)? {
    guard let h = histogram else { return nil }
    return (
      Double(h.valueAtPercentile(50)), Double(h.valueAtPercentile(99)), Double(h.valueAtPercentile(99.9))
    )
  }
}
