import Foundation
import NVMFoundation

/// The child's part: adds entries from `first` on, and says after each that it is durable: one byte a time on
/// standard output. It goes on until it is done or killed.
func load(_ entries: [IndexEntry], from first: Int, path: String, media: RegionOptions.MediaChoice) throws {
  let index = try PackageIndex(path: path, media: media)
  for entry in entries[first...] {
    try index.add(entry)
    var acknowledged: UInt8 = 1
    guard write(1, &acknowledged, 1) == 1 else { exit(1) }
  }
  try index.store.close()
}

struct Failure: Error, CustomStringConvertible {
  var description: String
}

/// The parent's part: runs a child and kills it with SIGKILL some time after it has acknowledged `count` entries.
/// - Returns: how many it acknowledged in all, and whether it was killed before it had ended.
func loadAndKill(
  after count: Int, status: String, first: Int, path: String, mediaName: String
) throws -> (acknowledged: Int, wasKilled: Bool) {
  let child = Process()
  child.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
  child.arguments = ["--child", status, String(first), path, mediaName]
  let pipe = Pipe()
  child.standardOutput = pipe
  try child.run()
  try pipe.fileHandleForWriting.close()
  var acknowledged = 0
  while acknowledged < count {
    let bytes = pipe.fileHandleForReading.availableData
    if bytes.isEmpty { break }
    acknowledged += bytes.count
  }
  usleep(UInt32.random(in: 0..<300))
  kill(child.processIdentifier, SIGKILL)
  // What it acknowledged before it died counts.
  while true {
    let bytes = pipe.fileHandleForReading.availableData
    if bytes.isEmpty { break }
    acknowledged += bytes.count
  }
  child.waitUntilExit()
  let wasKilled = child.terminationReason == .uncaughtSignal
  if !wasKilled, child.terminationStatus != 0 {
    throw Failure(description: "The child ended by itself with status \(child.terminationStatus).")
  }
  return (acknowledged, wasKilled)
}
