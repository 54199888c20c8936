import Glibc

/// How a region's bytes are protected from stores that nobody asked for: through a dangling or wild pointer, past the
/// end of a buffer, by a library gone wrong.
///
/// With protection on, the region's pages are read-only but where somebody has asked to write: the primitives ask for
/// the bytes they store to; ``PersistentRegion/withWritable(_:count:_:)`` opens a *window* for stores through raw
/// pointers. Pages open and close by the **granule**, 64 KiB. A store to a closed granule that nobody asked for ends the
/// process, before anything is written, with a report on standard error that names the offset, the block that would have
/// been hit, and the file; then the handler for SIGSEGV that was installed before runs.
///
/// What it cannot see: a stray store into a granule that is open at that moment (the checksums of heap and tree are for
/// that), and in the deferred way one that comes before the granule is closed again.
///
/// What to know: a system call that is to write into a protected page (`read`, `recv`) fails with `EFAULT`: open a
/// window first. A handler for SIGSEGV that the program installs later must hand on what it does not know. Protection
/// is of this process: a forked child finds the region read-only, or dies of the same report.
public enum RegionProtection: Sendable, Equatable {
  /// None, at no cost.
  case none
  /// Pages are opened before a thread's first store to a granule and closed at its next `order` or `fence`: two system
  /// calls around each change. The fewest open granules, and the slowest.
  case immediate
  /// A granule opens at the first store that was asked for (which faults and is granted, some 10 µs) and closes late:
  /// a thread in the background closes, every `interval`, what nobody has stored to since the last time. So a granule
  /// is open for one to two intervals after its last change, and one that is changed all the time stays open. From 10 µs
  /// to an hour.
  ///
  /// A block of 2 MiB three quarters of whose granules were changed within two intervals opens and closes as one: its
  /// other granules are open too for as long as that lasts. Changed less densely it is opened as a whole once more, then
  /// by granules again.
  case deferred(interval: Duration)
  /// Protection keys of the processor, where it has them: the region is open to the calling thread alone, all of it, for
  /// as long as it stores, without a system call. (At most 15 regions of a process; `.unsupported` beyond, and where the
  /// processor or the kernel has none. A thread that is started within a window has it too, until it stores to the
  /// region by a primitive or a window of its own.)
  case keys

  /// The deferred way at its default interval, 10 ms.
  public static var deferred: RegionProtection { .deferred(interval: .milliseconds(10)) }

  /// What was chosen, or else what the environment variable `NVM_PROTECTION` asks for.
  /// - Throws: `.invalidArgument` where it says something unknown: a wish for protection is not overheard.
  static func resolve(_ chosen: RegionProtection?) throws(NVMError) -> RegionProtection {
    if let chosen { return chosen }
    guard let value = getenv("NVM_PROTECTION").map({ String(cString: $0) }), !value.isEmpty else {
      return .none
    }
    switch value {
    case "none": return .none
    case "immediate": return .immediate
    case "deferred": return .deferred
    case "keys": return .keys
    default:
      let parts = value.split(separator: ":")
      if parts.count == 2, parts[0] == "deferred", let ms = Double(parts[1]), ms >= 0.01, ms <= 3_600_000 {
        return .deferred(interval: .microseconds(Int64(ms * 1000)))
      }
      throw NVMError(
        code: .invalidArgument,
        message: "NVM_PROTECTION is \"\(value)\". Set it to none, immediate, deferred, deferred:MILLISECONDS "
          + "or keys, or unset it.")
    }
  }
}

/// What protection has done since the region was opened; all zero where it is off.
public struct ProtectionStatistics: Sendable, Equatable {
  /// Requests put into the queue, a granule each.
  public var requests: UInt64 = 0
  /// Batches that found something in the queue.
  public var batches: UInt64 = 0
  /// Calls of `mprotect`.
  public var changes: UInt64 = 0
  /// Stores to closed granules that were asked for, and granted by the fault handler.
  public var faults: UInt64 = 0
  /// Granules that were to be closed and were used again before.
  public var cancelled: UInt64 = 0
  /// Granules opened, or opened again, along with the others of a block that is in use nearly everywhere (see
  /// ``RegionProtection/deferred(interval:)``).
  public var ahead: UInt64 = 0
  /// How often everything was opened because the process had too many mappings (`vm.max_map_count`).
  public var widened: UInt64 = 0
  /// Bytes that can be stored to at this moment, in whole granules.
  public var writableBytes: Int = 0

  public init() {}
}
