extension Array {
  /// Sorts by a number that each item has, keeping the order of those alike: digit by digit, the lowest first. Digits that
  /// all items share cost nothing but one look. O(n) for each of the others.
  @inlinable
  package mutating func sortByDigits(_ number: (Element) -> UInt64) {
    guard count > 1 else { return }
    let first = number(self[0])
    var differing: UInt64 = 0
    for item in self { differing |= number(item) ^ first }
    guard differing != 0 else { return }
    var other = self
    withUnsafeTemporaryAllocation(of: Int.self, capacity: 256) { starts in
      for shift in stride(from: UInt64(0), to: 64, by: 8) where differing &>> shift & 0xFF != 0 {
        starts.initialize(repeating: 0)
        self.withUnsafeBufferPointer { from in
          other.withUnsafeMutableBufferPointer { to in
            for item in from { starts[Int(number(item) &>> shift & 0xFF)] &+= 1 }
            var sum = 0
            for i in 0..<256 { (starts[i], sum) = (sum, sum &+ starts[i]) }
            for item in from {
              let digit = Int(number(item) &>> shift & 0xFF)
              to[starts[digit]] = item
              starts[digit] &+= 1
            }
          }
        }
        swap(&self, &other)
      }
    }
  }
}
