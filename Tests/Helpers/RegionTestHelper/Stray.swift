import Glibc
import NVMRegion
import NVMalloc

// Stray writes, each of which is to end this process: the tests read the report and the signal.

let protections: [String: RegionProtection] = [
  "deferred": .deferred(interval: .milliseconds(1)), "immediate": .immediate, "keys": .keys,
]

func strayCommand(_ path: String, _ what: String) throws(NVMError) {
  let parts = what.split(separator: "-").map(String.init)
  var options = RegionOptions(media: .emulated)
  guard parts.count == 2, let protection = protections[parts[0]] else { fail("stray PATH PROTECTION-KIND") }
  options.protection = protection
  switch parts[1] {
  case "closed": try strayIntoClosedGranule(path, options)
  case "block": try strayIntoBlock(path, options, isLarge: false)
  case "extent": try strayIntoBlock(path, options, isLarge: true)
  case "handler": try strayBeforeAHandler(path, options)
  case "mending": try mendBeforeAHandler(path, options)
  case "sent": try sendTheSignal(path, options, ignored: false)
  case "ignored": try sendTheSignal(path, options, ignored: true)
  case "fork": try strayInAChild(path, options)
  case "growth": try strayIntoGrownPart(path, options)
  case "ended": try strayAfterAWindow(path, options)
  case "describer": try strayWithABrokenDescriber(path, options)
  case "reused": try strayWithAKeyUsedBefore(path, options)
  case "older": try readOnAnOlderThread(path, options)
  case "efault": try readIntoClosedGranule(path, options)
  default: fail(parts[1])
  }
}

/// A region of 4 MiB all of whose granules are closed.
private func makeRegion(_ path: String, _ options: RegionOptions) throws(NVMError) -> PersistentRegion {
  let region = try PersistentRegion.create(at: path, size: 4 << 20, options: options)
  try settle(region)
  return region
}
private func settle(_ region: PersistentRegion) throws(NVMError) {
  try region.fence()
  region.applyProtection(everything: true)
}

private func stray(_ region: PersistentRegion, _ offset: Offset) {
  say("stray \(offset.rawValue)")
  region.pointer(to: offset).storeBytes(of: 13, as: UInt64.self)
  say("not stopped")
}

private func strayIntoClosedGranule(_ path: String, _ options: RegionOptions) throws(NVMError) {
  let region = try makeRegion(path, options)
  // Another granule is open: that helps nobody.
  try region.makeWritable(Offset(1 << 20), count: 8)
  region.pointer(to: Offset(1 << 20)).storeBytes(of: 1, as: UInt64.self)
  stray(region, Offset(2 << 20) + 4096 + 8)
}

private func strayAfterAWindow(_ path: String, _ options: RegionOptions) throws(NVMError) {
  let region = try makeRegion(path, options)
  let place = Offset(2 << 20)
  try region.makeWritable(place, count: 8)
  try region.makeWritable(place, count: 8)
  try region.protect(place, count: 8)
  region.applyProtection(everything: true)
  // One window is still open.
  region.pointer(to: place).storeBytes(of: 77, as: UInt64.self)
  try region.protect(place, count: 8)
  region.applyProtection(everything: true)
  stray(region, place)
}

private func strayIntoBlock(_ path: String, _ options: RegionOptions, isLarge: Bool) throws(NVMError) {
  let region = try makeRegion(path, options)
  // One that was open before says nothing, also when it goes.
  var before: PersistentHeap? = try PersistentHeap.format(region)
  before?.close()
  let heap = try PersistentHeap.open(region)
  before = nil
  let small = try heap.allocate(
    byteCount: 200, tag: BlockTag(rawValue: 21), owner: OwnerToken(rawValue: 22))
  let large = try heap.allocate(
    byteCount: 300 << 10, tag: BlockTag(rawValue: 31), owner: OwnerToken(rawValue: 32))
  try settle(region)
  say("block \(isLarge ? large.rawValue : small.rawValue)")
  stray(region, isLarge ? large + (200 << 10) : small + 100)
}

private func strayBeforeAHandler(_ path: String, _ options: RegionOptions) throws(NVMError) {
  var action = sigaction()
  action.__sigaction_handler.sa_handler = { _ in
    _ = write(2, "the handler before\n", 19)
    _exit(3)
  }
  sigaction(SIGSEGV, &action, nil)
  let region = try makeRegion(path, options)
  stray(region, Offset(2 << 20))
}

private nonisolated(unsafe) var mended = UnsafeMutableRawPointer(bitPattern: 64)!

/// A program that guards pages of its own in the same way, again and again, by a handler that was there before.
private func mendBeforeAHandler(_ path: String, _ options: RegionOptions) throws(NVMError) {
  var action = sigaction()
  action.__sigaction_handler.sa_handler = { _ in mprotect(mended, 4096, PROT_READ | PROT_WRITE) }
  sigaction(SIGSEGV, &action, nil)
  let region = try makeRegion(path, options)
  mended = mmap(nil, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
  for i in 0..<3 {
    mprotect(mended, 4096, PROT_READ)
    mended.storeBytes(of: i, as: Int.self)
  }
  say("mended \(mended.load(as: Int.self))")
  // And what it does not mend ends the process, not in a loop.
  stray(region, Offset(2 << 20))
}

/// A signal that is no fault: it is as it would be without a region.
private func sendTheSignal(_ path: String, _ options: RegionOptions, ignored: Bool) throws(NVMError) {
  if ignored { signal(SIGSEGV, SIG_IGN) }
  let region = try makeRegion(path, options)
  kill(getpid(), SIGSEGV)
  say("went on")
  try region.makeWritable(Offset(2 << 20), count: 8)
  region.pointer(to: Offset(2 << 20)).storeBytes(of: 1, as: UInt64.self)
  say("granted")
  try region.protect(Offset(2 << 20), count: 8)
  try settle(region)
  stray(region, Offset(2 << 20) + 64)
}

private func strayIntoGrownPart(_ path: String, _ options: RegionOptions) throws(NVMError) {
  let region = try makeRegion(path, options)
  try region.grow(toAtLeast: 8 << 20)
  region.store(5, at: Offset(6 << 20))
  try region.persist(Offset(6 << 20), count: 8)
  try settle(region)
  stray(region, Offset(7 << 20))
}

private func strayInAChild(_ path: String, _ options: RegionOptions) throws(NVMError) {
  // Without a batch that would open the pages before the child is born.
  var options = options
  let isDeferred = options.protection == protections["deferred"]
  if isDeferred { options.protection = .deferred(interval: .seconds(3600)) }
  let region = try makeRegion(path, options)
  while isDeferred, region.protectionStatistics.batches == 0 { usleep(100) }
  try region.makeWritable(Offset(2 << 20), count: 8)
  typealias Fork = @convention(c) () -> pid_t
  guard let symbol = dlsym(nil, "fork") else { fail("no fork") }
  let child = unsafeBitCast(symbol, to: Fork.self)()
  if child == 0 {
    // The parent's window is none of the child's.
    stray(region, Offset(2 << 20))
    _exit(0)
  }
  var status: Int32 = 0
  waitpid(child, &status, 0)
  // The parent goes on.
  region.pointer(to: Offset(2 << 20)).storeBytes(of: 9, as: UInt64.self)
  say("child \(status & 0x7F)")
  // And a child of another fork opens a region of its own, protected.
  let other = unsafeBitCast(symbol, to: Fork.self)()
  if other == 0 {
    do throws(NVMError) {
      let own = try PersistentRegion.create(at: path + "-own", size: 1 << 20, options: options)
      own.store(1, at: own.payloadStart)
      try own.persist(own.payloadStart, count: 8)
      try own.close()
      _exit(0)
    } catch {
      _exit(1)
    }
  }
  waitpid(other, &status, 0)
  say("other \(status)")
  try region.protect(Offset(2 << 20), count: 8)
  try region.close()
}

private func strayWithABrokenDescriber(_ path: String, _ options: RegionOptions) throws(NVMError) {
  let region = try makeRegion(path, options)
  region.setDescriber(
    { context, _, _ in context?.storeBytes(of: 1, as: UInt8.self) },
    context: UnsafeMutableRawPointer(bitPattern: 64))
  stray(region, Offset(2 << 20))
}

/// A window that is left open is none of the next region's, which gets the same key.
private func strayWithAKeyUsedBefore(_ path: String, _ options: RegionOptions) throws(NVMError) {
  let before = try PersistentRegion.create(at: path + "-before", size: 1 << 20, options: options)
  try before.makeWritable(before.payloadStart, count: 8)
  try before.close()
  unlink(path + "-before")
  stray(try makeRegion(path, options), Offset(2 << 20))
}

private nonisolated(unsafe) var regionOfOlderThread: PersistentRegion?
private nonisolated(unsafe) let goesOn = makeSemaphore()
private nonisolated(unsafe) let isDone = makeSemaphore()
private func makeSemaphore() -> UnsafeMutablePointer<sem_t> {
  let semaphore = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
  sem_init(semaphore, 0, 0)
  return semaphore
}

/// The thread starts before the region is made, and reads twice after.
private func readOnAnOlderThread(_ path: String, _ options: RegionOptions) throws(NVMError) {
  var thread = pthread_t()
  pthread_create(
    &thread, nil,
    { _ in
      sem_wait(goesOn)
      if let region = regionOfOlderThread {
        let (a, b) = (region.load(Offset(1 << 20)), region.load(Offset(1 << 20)))
        say("read \(a) \(b), \(region.protectionStatistics.faults) faults")
      }
      sem_post(isDone)
      return nil
    }, nil)
  let region = try makeRegion(path, options)
  region.store(7, at: Offset(1 << 20))
  regionOfOlderThread = region
  sem_post(goesOn)
  sem_wait(isDone)
  regionOfOlderThread = nil
  try region.close()
}

private func readIntoClosedGranule(_ path: String, _ options: RegionOptions) throws(NVMError) {
  let region = try makeRegion(path, options)
  let zero = open("/dev/zero", O_RDONLY)
  let n = read(zero, region.pointer(to: Offset(2 << 20)), 8)
  say("read \(n) \(errno == EFAULT ? "EFAULT" : "\(errno)")")
  try region.makeWritable(Offset(2 << 20), count: 8)
  region.applyProtection(everything: true)
  say("read \(read(zero, region.pointer(to: Offset(2 << 20)), 8))")
  try region.protect(Offset(2 << 20), count: 8)
  try region.close()
}
