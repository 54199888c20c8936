import Foundation
import NVMFoundation

// PackageIndex [FILE] [--kills N] [--disk DIRECTORY]
//
// Indexes the packages of this machine in a durable store while it is killed again and again: on memory (tmpfs, as
// emulated persistent memory) and on the disk (an ordinary file).

let media: [String: RegionOptions.MediaChoice] = ["emulated": .emulated, "in-place": .inPlaceFile]

do {
  var arguments = Array(CommandLine.arguments.dropFirst())
  if arguments.first == "--child", arguments.count == 5, let first = Int(arguments[2]),
    let choice = media[arguments[4]]
  {
    try load(
      PackageIndex.entries(of: readPackages(arguments[1])), from: first, path: arguments[3], media: choice)
    exit(0)
  }
  var status = "/var/lib/dpkg/status"
  var kills = 20
  var disk = "/var/tmp"
  while !arguments.isEmpty {
    switch arguments.removeFirst() {
    case "--kills" where Int(arguments.first ?? "") ?? 0 > 0: kills = Int(arguments.removeFirst()) ?? kills
    case "--disk" where !arguments.isEmpty: disk = arguments.removeFirst()
    case let file where !file.hasPrefix("-"): status = file
    default:
      print("Usage: PackageIndex [FILE] [--kills N] [--disk DIRECTORY]")
      exit(2)
    }
  }
  let packages = try readPackages(status)
  let entries = PackageIndex.entries(of: packages)
  guard !entries.isEmpty else { throw Failure(description: "\(status) holds no packages.") }
  print("\(status): \(packages.count) packages, \(entries.count) entries to index")
  // Loading writes to a pipe that may have lost its reader.
  signal(SIGPIPE, SIG_IGN)
  let name = "package-index-\(getpid()).nvm"
  var places = [("/dev/shm", "emulated", "in memory (tmpfs), as emulated persistent memory")]
  places.append((disk, "in-place", "on disk (\(disk)), as an ordinary file"))
  for (directory, mediaName, title) in places {
    print("\n\(title):")
    guard FileManager.default.isWritableFile(atPath: directory), let choice = media[mediaName] else {
      print("  left out: \(directory) cannot be written to")
      continue
    }
    try Demo(
      status: status, entries: entries, kills: kills, path: "\(directory)/\(name)", media: choice,
      mediaName: mediaName
    ).run()
  }
  print("\nNothing was lost.")
} catch {
  FileHandle.standardError.write(Data("PackageIndex: \(error)\n".utf8))
  exit(1)
}
