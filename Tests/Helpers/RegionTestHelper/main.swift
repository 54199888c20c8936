// A child process for the tests of NVMRegion. It does one thing with one file and prints one line:
// "ok …", or "error CODE: DESCRIPTION". Exit status 0 in both cases; anything else is a crash.
//
//   RegionTestHelper [--LIMIT VALUE]… COMMAND PATH [ARGUMENT]
//
// Limits are set before the command runs: --uid, --fsize (bytes), --files (descriptors),
// --memory (bytes of address space beyond what the process has).
import Glibc
import NVMRegion

var arguments = Array(CommandLine.arguments.dropFirst())
var memory: Int?

func fail(_ message: String) -> Never {
  print("usage: \(message)")
  exit(2)
}

func limit(_ resource: __rlimit_resource, _ value: Int) {
  var limit = rlimit(rlim_cur: rlim_t(value), rlim_max: rlim_t(value))
  guard setrlimit(__rlimit_resource_t(resource.rawValue), &limit) == 0 else { fail("setrlimit: \(errno)") }
}

/// The size of the address space, from /proc/self/statm.
func addressSpace() -> Int {
  guard let file = fopen("/proc/self/statm", "r") else { fail("statm") }
  defer { fclose(file) }
  var buffer = [CChar](repeating: 0, count: 128)
  guard fgets(&buffer, 128, file) != nil else { fail("statm") }
  return Int(strtol(buffer, nil, 10)) * Int(sysconf(Int32(_SC_PAGESIZE)))
}

while arguments.count >= 2, arguments[0].hasPrefix("--") {
  guard let value = Int(arguments[1]) else { fail("\(arguments[1]) is no number") }
  switch arguments[0] {
  case "--uid":
    guard setgid(gid_t(value)) == 0, setuid(uid_t(value)) == 0 else { fail("setuid: \(errno)") }
  case "--fsize": limit(RLIMIT_FSIZE, value)
  case "--files": limit(RLIMIT_NOFILE, value)
  case "--memory": memory = value
  default: fail(arguments[0])
  }
  arguments.removeFirst(2)
}
guard arguments.count >= 2 else { fail("COMMAND PATH") }
let path = arguments[1]
let number = arguments.count > 2 ? Int(arguments[2]) : nil

// Everything the command needs is loaded before the limit falls.
let emulated = RegionOptions(media: .emulated)
if let memory { limit(RLIMIT_AS, addressSpace() + memory) }

func say(_ line: String) {
  print(line)
  fflush(nil)
}

do throws(NVMError) {
  switch arguments[0] {
  case "create":
    let region = try PersistentRegion.create(at: path, size: number ?? 1 << 20, options: emulated)
    say("ok \(region.size) \(region.maximumSize)")
    try region.close()
  case "open", "read":
    let region = try PersistentRegion.open(
      at: path,
      options: RegionOptions(media: .emulated, access: arguments[0] == "open" ? .readWrite : .readOnly))
    say("ok \(region.size) \(region.maximumSize) \(region.load(region.payloadStart))")
    try region.close()
  case "grow":
    let region = try PersistentRegion.open(at: path, options: emulated)
    var refused: NVMError?
    do throws(NVMError) { try region.grow(toAtLeast: number ?? 0) } catch { refused = error }
    // The region goes on at the size it has.
    region.store(4711, at: region.end - 8)
    try region.persist(region.end - 8, count: 8)
    say(refused.map { "error \($0.code): \($0)" } ?? "ok \(region.size)")
    try region.close()
  case "hold":
    // Until the other side closes the pipe, or kills us.
    let region = try PersistentRegion.open(at: path, options: emulated)
    region.store(99, at: region.payloadStart)
    try region.persist(region.payloadStart, count: 8)
    say("ok holding")
    while getchar() != EOF {}
    try region.close()
  case "fork":
    try forkCommand()
  case "fork-large":
    try forkWithLargePages()
  case "stray":
    try strayCommand(path, arguments.count > 2 ? arguments[2] : "")
  default: fail(arguments[0])
  }
} catch {
  say("error \(error.code): \(error)")
}

/// Brings a journaled file into large pages and forks: the child reads what was there, while the parent changes it.
func forkWithLargePages() throws(NVMError) {
  typealias Fork = @convention(c) () -> pid_t
  guard let symbol = dlsym(nil, "fork") else { fail("no fork") }
  let fork = unsafeBitCast(symbol, to: Fork.self)
  let region = try PersistentRegion.open(at: path, options: RegionOptions(media: .journaledFile))
  let start = region.payloadStart
  let words = stride(from: 0, to: region.size - start.bytes, by: 4096)
  for at in words { region.store(UInt64(at + 1), at: start + at) }
  region.useLargePages(start, count: region.size - start.bytes)
  while region.journal?.hasOpenWishes == true { usleep(1000) }
  let child = fork()
  if child == 0 {
    // The parent is changing everything meanwhile.
    usleep(50_000)
    _exit(words.allSatisfy { region.load(start + $0) == UInt64($0 + 1) } ? 0 : 1)
  }
  for at in words {
    region.store(UInt64(at + 2), at: start + at)
    region.flush(start + at, count: 8)
  }
  try region.fence()
  var status: Int32 = 0
  waitpid(child, &status, 0)
  say("ok child \(status) large \((region.journalStatistics?.largePages ?? 0) > 0)")
  try region.close()
}

/// Opens, forks, and lets the child try everything a forked child might; the parent goes on.
func forkCommand() throws(NVMError) {
  // fork() is hidden from Swift since most programs should not call it; here it is the point.
  typealias Fork = @convention(c) () -> pid_t
  guard let symbol = dlsym(nil, "fork") else { fail("no fork") }
  let fork = unsafeBitCast(symbol, to: Fork.self)
  let region = try PersistentRegion.open(at: path, options: emulated)
  let child = fork()
  if child == 0 {
    var status: Int32 = 0
    func expectForked(_ bit: Int32, _ attempt: () throws(NVMError) -> Void) {
      do throws(NVMError) {
        try attempt()
        status |= bit
      } catch {
        if error.code != .forked { status |= 8 }
      }
    }
    expectForked(1) { () throws(NVMError) in try region.checkUsable() }
    expectForked(2) { () throws(NVMError) in try region.checkWritable() }
    expectForked(4) { () throws(NVMError) in try region.grow(toAtLeast: 2 << 20) }
    // Closing must neither mark the parent's file clean nor take its lock away.
    do throws(NVMError) { try region.close() } catch { status |= 16 }
    _exit(status)
  }
  var status: Int32 = 0
  waitpid(child, &status, 0)
  region.store(4711, at: region.payloadStart)
  try region.persist(region.payloadStart, count: 8)
  var other = "opened twice"
  do throws(NVMError) {
    _ = try PersistentRegion.open(at: path, options: emulated)
  } catch {
    other = "\(error.code)"
  }
  say("ok child \(status) other \(other)")
  try region.close()
}
