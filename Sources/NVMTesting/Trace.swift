/// What happened on a simulated medium, in one global order.
struct Trace: Sendable {
  struct Event: Sendable {
    enum Kind: UInt8, Sendable {
      /// One word, atomically.
      case store
      /// Words without order among them.
      case write
      /// Words past the cache.
      case nontemporal
      case flush
      case order
      case fence
      /// The file has `count` bytes from here on.
      case grow
      case begin
      case acknowledge
      /// What a mutation dropped.
      case nothing
    }
    var kind: Kind
    var thread: Int32
    /// Index into `operations`, -1 outside of any.
    var operation: Int32
    /// Index into the call-site table, -1 where none was taken.
    var site: Int32
    /// Bytes from the region's start; of a multiple of 8 for stores.
    var offset: Int
    /// Words of a store, bytes of a flush.
    var count: Int
    /// Where the words of a store start in `words`.
    var data: Int
    /// A store that went round the primitives, noticed here.
    var isStray = false

    var isStore: Bool { kind.rawValue <= Kind.nontemporal.rawValue }
    var isFence: Bool { kind == .order || kind == .fence }
    /// The bytes a store or flush concerns.
    var byteCount: Int { isStore ? count &* 8 : count }
  }

  struct Operation: Sendable {
    var name: String
    var thread: Int
    var begin = Int.max
    var acknowledge = Int.max
  }

  var events: [Event] = []
  var words: [UInt64] = []
  var operations: [Operation] = []
  /// The event that acknowledged the creation (or recovery) with which the run began.
  var ready = Int.max
}
