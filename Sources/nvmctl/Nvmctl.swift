import ArgumentParser
import NVM

/// The command-line tool over stores: what each command does is in `Commands/`, one file each.
@main
struct Nvmctl: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "nvmctl",
    abstract: "Make, fill, read and check the stores of swift-nvm.",
    discussion: """
      A store is one file with named, typed, ordered trees. Every command works on the tree named main unless \
      --tree says otherwise; a file name of - means standard input. Each change is durable when the command has \
      ended well.

      Try:
        nvmctl create app.nvm --value-type Int
        nvmctl put app.nvm ada 41
        printf 'bob\\t25\\ncyd\\t37\\n' | nvmctl load app.nvm -
        nvmctl scan app.nvm --from b --limit 10
        nvmctl check app.nvm

      Types: String, Bytes (as hexadecimal digits), Int8 … Int128, UInt8 … UInt128, Int, UInt, Bool, Float, Double, \
      UUID, Date, and for keys pairs and triples of these, as "(String,Int)", whose values are written as JSON \
      arrays: '["ada",7]'.

      Exit status: 0 done; 1 no such key, tree or file; 2 wrong usage; 3 any other failure; 4 the store is damaged. \
      What went wrong is said on standard error.
      """,
    version: "swift-nvm 0.1 (format 0)",
    subcommands: [
      Create.self, Info.self, List.self, Load.self, Get.self, Put.self, Delete.self, Scan.self, Dump.self,
      Check.self,
      Stat.self, Wear.self,
    ])

  static func main() {
    do {
      var command = try parseAsRoot()
      try command.run()
    } catch {
      exit(after: error)
    }
  }
}
