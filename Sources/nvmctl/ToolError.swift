import ArgumentParser
import Glibc
import NVM

/// A failure with the exit status it ends the tool with.
struct ToolError: Error, CustomStringConvertible {
  enum Status: Int32 {
    case notFound = 1
    case usage = 2
    case failure = 3
    case corrupt = 4
  }
  var status: Status
  var description: String

  init(_ status: Status, _ description: String) {
    self.status = status
    self.description = description
  }
}

extension NVMError {
  /// The exit status for an error of the library.
  var exitStatus: ToolError.Status {
    switch code {
    case .notFound: .notFound
    case .corrupt, .truncated: .corrupt
    case .invalidArgument, .typeMismatch, .tooLarge: .usage
    default: .failure
    }
  }
}

extension Nvmctl {
  /// Says what went wrong on standard error and ends with the status that `--help` documents.
  static func exit(after error: any Error) -> Never {
    switch error {
    case let error as ToolError:
      Terminal.writeError("nvmctl: \(error)\n")
      Glibc.exit(error.status.rawValue)
    case let error as NVMError:
      Terminal.writeError("nvmctl: \(error)\n")
      Glibc.exit(error.exitStatus.rawValue)
    default:
      let message = fullMessage(for: error)
      if exitCode(for: error).isSuccess {
        // A request for help or the version.
        print(message)
        Glibc.exit(0)
      }
      Terminal.writeError(message + "\n")
      Glibc.exit(
        exitCode(for: error) == .validationFailure
          ? ToolError.Status.usage.rawValue : exitCode(for: error).rawValue)
    }
  }
}
