import Foundation

/// A path for a new file, gone with its directory when the closure returns.
func withPath<R>(_ body: (String) throws -> R) throws -> R {
  let parent = FileManager.default.isWritableFile(atPath: "/dev/shm") ? "/dev/shm" : NSTemporaryDirectory()
  let directory = "\(parent)/nvm-public-\(getpid())-\(UInt32.random(in: 0 ... .max))"
  try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
  defer { try? FileManager.default.removeItem(atPath: directory) }
  return try body(directory + "/x.nvm")
}
