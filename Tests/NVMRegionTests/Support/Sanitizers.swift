import Glibc
import XCTest

/// Skips a test whose stores or loads are to fault and go on. The thread sanitizer carries out atomic accesses under a
/// lock of its own; the handler's would wait for it for ever.
func skipUnderThreadSanitizer() throws {
  try XCTSkipIf(
    dlsym(nil, "__tsan_init") != nil,
    "Under the thread sanitizer a fault in an atomic access cannot be handled by code with atomic accesses.")
}
