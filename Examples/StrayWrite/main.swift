import Foundation
import NVM

// Two bugs that every program may have. Protection stops the one before it does harm; the other, which protection cannot
// see, is found by checksums.
//
//   StrayWrite            runs both
//   StrayWrite stray FILE the first, alone: ends with a report

let tag = BlockTag(rawValue: 7)

func report(_ store: NVMStore) throws -> String { "\(try store.verify())" }

/// A pointer that should have been forgotten: the block is used by somebody else now, and its granule is closed.
func stray(_ path: String) throws {
  var options = NVMStoreOptions(media: .emulated)
  options.protection = .deferred(interval: .milliseconds(1))
  let store = try NVMStore(path: path, options: options)
  let block = try store.heap.allocate(byteCount: 100, tag: tag)
  let kept = store.region.pointer(to: block)
  print("a block of 100 bytes at offset \(block)")
  // Windows are for stores through pointers. This one is closed properly …
  try store.region.withWritable(block, count: 100) { bytes in
    bytes.storeBytes(of: 42, as: UInt64.self)
    try store.region.persist(block, count: 8)
  }
  // … and some time later a forgotten pointer is stored through.
  while store.region.protectionStatistics.writableBytes > 0 { usleep(1000) }
  print("a store through a pointer that was kept:")
  fflush(nil)
  kept.storeBytes(of: 13, as: UInt64.self)
  print("not reached")
}

/// A loop that runs over the end of its block, in a granule that is rightly open.
func overrun(_ path: String) throws {
  var options = NVMStoreOptions(media: .emulated)
  options.protection = .deferred
  let store = try NVMStore(path: path, options: options)
  let first = try store.heap.allocate(byteCount: 100, tag: tag)
  let second = try store.heap.allocate(byteCount: 100, tag: tag)
  print("blocks of 100 bytes at \(min(first, second)) and \(max(first, second))")
  try store.region.withWritable(min(first, second), count: 100) { bytes in
    for i in 0..<160 { (bytes.baseAddress! + i).storeBytes(of: 0xAA, as: UInt8.self) }
  }
  let found = try store.heap.verify()
  print("verify:")
  for problem in found.problems { print("  \(problem)") }
  guard !found.problems.isEmpty else { fatalError("the overrun went unseen") }
  do {
    try store.heap.deallocate(max(first, second))
    fatalError("a block with a broken header was freed")
  } catch {
    print("and freeing it is refused: \(error)")
  }
}

do {
  let arguments = CommandLine.arguments
  if arguments.count == 3, arguments[1] == "stray" {
    try stray(arguments[2])
    exit(1)
  }
  let place = FileManager.default.temporaryDirectory.path + "/stray-\(getpid())"
  defer { for name in ["1", "2"] { unlink(place + name) } }
  print("1. A stray write into a closed granule")
  // In a process of its own, which it is to end.
  let child = Process()
  child.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
  child.arguments = ["stray", place + "1"]
  try child.run()
  child.waitUntilExit()
  guard child.terminationReason == .uncaughtSignal else { fatalError("the stray write went through") }
  print("the process was ended by signal \(child.terminationStatus); the store is whole:")
  let store = try NVMStore(path: place + "1", options: NVMStoreOptions(media: .emulated))
  print("  \(try store.verify().isClean ? "verify finds nothing wrong" : "verify finds damage")")
  try store.close()
  print("\n2. An overrun within an open granule")
  try overrun(place + "2")
} catch {
  print(error)
  exit(1)
}
