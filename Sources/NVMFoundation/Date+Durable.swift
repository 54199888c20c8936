public import Foundation
public import NVMBTree

/// A `Double`: the seconds since the reference date, 2001-01-01 00:00 UTC. Exact, 8 bytes, earlier first.
extension Date: DurableWordKey, DurableWordValue {
  @inlinable public static var durableTypeName: String { "Date" }
  @inlinable public var keyHead: UInt64 { timeIntervalSinceReferenceDate.keyHead }
  @inlinable public init?(keyHead: UInt64) {
    guard let seconds = Double(keyHead: keyHead) else { return nil }
    self.init(timeIntervalSinceReferenceDate: seconds)
  }
  @inlinable public var valueWord: UInt64 { timeIntervalSinceReferenceDate.valueWord }
  @inlinable public init?(valueWord: UInt64) {
    guard let seconds = Double(valueWord: valueWord) else { return nil }
    self.init(timeIntervalSinceReferenceDate: seconds)
  }
}
