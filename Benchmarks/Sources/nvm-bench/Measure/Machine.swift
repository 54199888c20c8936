import CBench
import Foundation
import NVMRegion

/// What the figures were taken on; printed above them and kept beside the JSON.
enum Machine {
  static var description: [String] {
    var lines: [String] = []
    let cpu = (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)) ?? ""
    if let model = cpu.split(separator: "\n").first(where: { $0.hasPrefix("model name") }) {
      lines.append(
        "processor: " + (model.split(separator: ":").last?.trimmingCharacters(in: .whitespaces) ?? "?"))
    }
    lines.append("cores: \(ProcessInfo.processInfo.activeProcessorCount)")
    lines.append("memory: \(ProcessInfo.processInfo.physicalMemory >> 30) GiB")
    lines.append(
      "kernel: "
        + ((try? String(contentsOfFile: "/proc/sys/kernel/osrelease", encoding: .utf8)) ?? "?")
        .trimmingCharacters(in: .whitespacesAndNewlines))
    let load = (try? String(contentsOfFile: "/proc/loadavg", encoding: .utf8)) ?? "?"
    lines.append(
      "load before the run (1, 5, 15 minutes): \(load.split(separator: " ").prefix(3).joined(separator: " "))"
    )
    lines.append("flush instruction: \(PersistentRegion.flushInstruction)")
    lines.append("empty call from Swift into a peer's adapter: \(emptyCall) ns")
    return lines
  }
  /// Contestants are called once per batch; this is what a call would cost for each operation.
  private static var emptyCall: String {
    let n = 10_000_000
    let t = bench_ns()
    for _ in 0..<n { bench_empty_call() }
    return String(format: "%.2f", Double(bench_ns() - t) / Double(n))
  }
}
