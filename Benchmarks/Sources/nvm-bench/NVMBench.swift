import ArgumentParser
import CBench
import Foundation

@main
struct NVMBench: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "nvm-bench",
    abstract: "Measures swift-nvm beside what a user would pick instead.",
    subcommands: [
      RegionCommand.self, HeapCommand.self, TreeCommand.self, StoreCommand.self, RecoveryCommand.self,
      WearCommand.self, ManyCommand.self, ProtectCommand.self, GroupCommand.self, AmplificationCommand.self,
      LargeCommand.self,
      ReportCommand.self, InstructionsCommand.self, RecoveryChild.self,
    ])

  static func main() {
    Environment.prepare()
    bench_buffer_lines()
    main(nil)
  }
}

/// Two variables that the loader and libpmem read before `main`: set them and start again.
enum Environment {
  static let variables = [
    // libpmem: count tmpfs as persistent memory, as our `emulated` does. (It changes nothing on a disk, where
    // the suites that use libpmemobj are not run.)
    ("PMEM_IS_PMEM_FORCE", "1"),
    // jemalloc is loaded late and wants thread-local storage that the loader must have set aside.
    ("GLIBC_TUNABLES", "glibc.rtld.optional_static_tls=16384"),
  ]
  static func prepare() {
    if variables.allSatisfy({ getenv($0.0).map { String(cString: $0) } == $0.1 }) { return }
    for (name, value) in variables { setenv(name, value, 1) }
    var arguments = CommandLine.arguments.map { strdup($0) }
    arguments.append(nil)
    execv("/proc/self/exe", arguments)
    perror("nvm-bench: cannot start itself again")
    exit(1)
  }
}

/// What every suite does around its measurements.
func runSuite(_ options: Options, _ body: (Results, String) throws -> Void) throws {
  for line in Machine.description { print(line) }
  print(
    "media: \(options.mediaName), rounds: \(options.rounds), seed: \(options.seed), clock: \(options.cpuTime ? "processor time" : "wall")"
  )
  let results = Results()
  try options.withDirectory { try body(results, $0) }
  let rows = results.rows
  Table.print(rows)
  if let json = options.json { try Output.write(rows, to: json) }
  if let plot = options.plot { try Charts.write(rows, to: plot) }
  if results.wrong > 0 {
    print("\n\(results.wrong) wrong answers")
    throw ExitCode.failure
  }
}
