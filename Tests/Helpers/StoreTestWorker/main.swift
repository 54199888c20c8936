import Dispatch
import Glibc
import StoreTestModel

// Usage: StoreTestWorker PATH SEED [combined]. Works on the store until it is killed; says which step of which thread is done
// by four bytes on standard output each.

func fail(_ message: String, _ status: Int32) -> Never {
  let line = message + "\n"
  _ = line.withCString { write(2, $0, strlen($0)) }
  exit(status)
}

let arguments = CommandLine.arguments
let isCombined = arguments.count == 4 && arguments[3] == "combined"
guard arguments.count == 3 || isCombined, let seed = UInt64(arguments[2]) else {
  fail("Usage: StoreTestWorker PATH SEED [combined]", 2)
}
do {
  let work = try WorkStore(path: arguments[1], combined: isCombined)
  DispatchQueue.concurrentPerform(iterations: WorkStore.threads) { thread in
    for step in 0..<1_000_000 {
      do {
        try work.carryOut(Work(seed: seed, thread: thread, step: step), thread: thread)
      } catch {
        fail("\(error)", 3)
      }
      var message = UInt32(thread << 28 | step)
      // A pipe takes four bytes whole or not at all.
      if write(1, &message, 4) != 4 { exit(4) }
    }
  }
} catch {
  fail("\(error)", 3)
}
