import CNVM
import Glibc

/// The end of the journal, in memory: what was appended and is not durable yet. Guarded by the medium's mutex, but for
/// the batch that a leader has taken to write.
///
///     start ≤ durable ≤ base < base + count
///     |  in the file, not home yet  |  being written  |  the open batch, in `buffer`
struct JournalTail {
  /// The open batch: room for its head, then records.
  var buffer: UnsafeMutableRawPointer
  var capacity: Int
  /// Bytes of it, its head included.
  var count = JournalLayout.batchHeader
  /// The end of the record before, in words.
  var end = 0
  /// Where the open batch will stand.
  var base: UInt64
  /// The check of the batch before it.
  var chain: UInt64
  /// The other buffer, in a leader's hands or spare.
  var spare: UnsafeMutableRawPointer
  var spareCapacity: Int
  /// Everything before it survives a crash.
  var durable: UInt64
  /// The journal's header: `start` is the first position that is needed.
  var header: JournalHeader
  /// Somebody is writing a batch, or about to.
  var isLed = false
  /// The leader waits for atomic sections to end; no new one begins.
  var isSealWanted = false
  /// Atomic sections that are open: what they append goes into one batch.
  var sections = 0
  var isCheckpointing = false
  /// A window of the mapping is being moved into a large page.
  var isEnlarging = false
  /// Those that were carried out.
  var checkpoints: UInt64 = 0
  var isCheckpointWanted = false
  var isStopping = false
  var isClosed = false
  /// From the first failure on nothing is written.
  var failure: NVMError?
  /// Counts the batches.
  var batch: UInt64 = 1
  /// Threads that wait for the open batch; how many of them waited for the one before too, and how many did that.
  var arrivals = 0
  var returns = 0
  var arrivalsBefore = 0
  /// The batch that a thread is timing the gathering for; 0 for none.
  var gathered: UInt64 = 0
  /// The space before it has been written once. Of the leader.
  var prepared: UInt64 = 0
  /// How many sleep until a batch of even number is durable, and of odd number; at least.
  var sleepers = SIMD2<Int>(0, 0)
  /// How long writing a batch takes, in nanoseconds, smoothed; and when the last one was written, and the one before.
  var syncTime: UInt64 = 0
  var syncEnd: UInt64 = 0
  var syncEndBefore: UInt64 = 0
  /// How long those take to come back whose batch is durable: the last of them, of the open batch, and smoothed. In
  /// nanoseconds; who takes longer than a sync does not count.
  var comingBack: UInt64 = 0
  var comeBack: UInt64 = 0

  private static let initialCapacity = 64 << 10

  init(_ header: JournalHeader) {
    self.header = header
    base = header.start
    durable = header.start
    chain = header.check
    capacity = Self.initialCapacity
    spareCapacity = Self.initialCapacity
    buffer = .allocate(byteCount: capacity, alignment: 4096)
    spare = .allocate(byteCount: spareCapacity, alignment: 4096)
  }

  func deallocate() {
    buffer.deallocate()
    spare.deallocate()
  }

  var isEmpty: Bool { count == JournalLayout.batchHeader }
  /// What everything appended so far lies before.
  var ticket: UInt64 { base &+ UInt64(count) }

  /// Makes room in the buffer for so many bytes, and for the zeroes behind the batch.
  mutating func grow(_ bytes: Int) {
    let needed = count + bytes + 4096
    guard needed > capacity else { return }
    capacity = max(2 * capacity, needed)
    let new = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 4096)
    new.copyMemory(from: buffer, byteCount: count)
    buffer.deallocate()
    buffer = new
  }

  /// Appends words as they are in memory now. There is room.
  @inline(__always)
  mutating func append(_ place: Int, _ words: Int, from source: UnsafeRawPointer) {
    let p = buffer + count
    let n = JournalRecord.encode(p, place: place, after: end, count: words)
    nvm_capture_words(p + n, source, UInt64(truncatingIfNeeded: words))
    count &+= n &+ words &* 8
    end = place &+ words
  }

  mutating func didSync(took time: UInt64, at end: UInt64) {
    syncTime = (3 &* syncTime &+ time) / 4
    (syncEndBefore, syncEnd) = (syncEnd, end)
  }

  /// A batch ready to be written.
  struct Batch {
    var bytes: UnsafeMutableRawBufferPointer
    var position: UInt64
  }

  /// Ends the open batch and begins the next one.
  /// - Parameter ring: its size.
  mutating func seal(key: UInt64, ring: Int) -> Batch {
    let head = BatchHeader(
      position: base, previous: chain, length: count - JournalLayout.batchHeader,
      incarnation: header.incarnation)
    chain = head.seal(buffer, key: key)
    // Up to the end of the page: a page that is written from its start needs no reading first, and nothing of an
    // older lap is left in it. But not around the end of the ring.
    let at = Int(base % UInt64(ring))
    let stop = at + head.size > ring ? head.size : min((at + head.size + 4095) & ~4095, ring) - at
    memset(buffer + count, 0, stop - count)
    let batch = Batch(bytes: UnsafeMutableRawBufferPointer(start: buffer, count: stop), position: base)
    base += UInt64(head.size)
    swap(&buffer, &spare)
    swap(&capacity, &spareCapacity)
    count = JournalLayout.batchHeader
    end = 0
    self.batch += 1
    (arrivalsBefore, arrivals, returns) = (arrivals, 0, 0)
    comeBack = max(comingBack, comeBack - comeBack / 8)
    comingBack = 0
    return batch
  }
}
