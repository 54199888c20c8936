/// A bound whose key bytes are its own.
struct OwnedBound {
  private(set) var bound = Bound.start
  private var copy = KeyCopy()

  @inline(__always) init(_ bound: Bound) { set(bound) }

  @inline(__always) mutating func set(_ new: Bound) {
    if new.key?.bytes == nil { bound = new } else { setBytes(new) }
  }
  @inline(never) private mutating func setBytes(_ new: Bound) {
    switch new {
    case .start, .end: break
    case .before(let key): bound = .before(copy.set(key))
    case .after(let key): bound = .after(copy.set(key))
    }
  }
  mutating func release() { copy.release() }
}
