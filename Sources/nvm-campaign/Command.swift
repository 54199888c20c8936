import Glibc

@main
struct Command {
  static func main() {
    do {
      let arguments = try Arguments(Array(CommandLine.arguments.dropFirst()))
      if arguments.help {
        print(Arguments.usage)
        return
      }
      exit(try run(arguments))
    } catch let error as Arguments.Problem {
      complain(error.text)
      exit(2)
    } catch let error as CampaignError {
      complain(error.text)
      exit(3)
    } catch {
      complain("\(error)")
      exit(3)
    }
  }

  private static func complain(_ text: String) {
    fflush(nil)
    _ = "nvm-campaign: \(text)\n".withCString { write(STDERR_FILENO, $0, strlen($0)) }
  }

  private static func run(_ arguments: Arguments) throws -> Int32 {
    if arguments.command == .check, let directory = arguments.checked {
      let finding = try KeptRound.check(directory)
      print(finding.map { "still wrong: \($0)" } ?? "nothing wrong with \(directory)")
      return finding == nil ? 0 : 1
    }
    var summary: Summary
    if arguments.command == .kill {
      var campaign = KillCampaign(arguments)
      summary = try campaign.run()
    } else {
      var campaign = CutCampaign(arguments)
      summary = try campaign.run()
    }
    for reason in summary.skipped { print("skipped: \(reason)") }
    print(summary.text)
    if let path = arguments.json, !writeFile(path, summary.json) {
      throw Arguments.Problem(text: "\(path) cannot be written.")
    }
    return summary.status
  }
}
