import Foundation
import NVMFoundation

/// A type whose values can be given and shown as text.
protocol TextConvertible {
  /// What the text means, or nil when it is no value of the type.
  init?(text: String)
  var text: String { get }
  /// Whether the text is a JSON value of its own (a number, a Bool, an array), not a string.
  static var isJSON: Bool { get }
}

extension TextConvertible where Self: LosslessStringConvertible {
  init?(text: String) { self.init(text) }
  var text: String { description }
  static var isJSON: Bool { true }
}

extension Int8: TextConvertible {}
extension Int16: TextConvertible {}
extension Int32: TextConvertible {}
extension Int64: TextConvertible {}
extension UInt8: TextConvertible {}
extension UInt16: TextConvertible {}
extension UInt32: TextConvertible {}
extension UInt64: TextConvertible {}
extension Int128: TextConvertible {}
extension UInt128: TextConvertible {}
extension Bool: TextConvertible {}
extension Float: TextConvertible {
  static var isJSON: Bool { false }
}
extension Double: TextConvertible {
  // Not every one is a number to JSON: infinities are not.
  static var isJSON: Bool { false }
}

extension String: TextConvertible {
  init?(text: String) { self = text }
  var text: String { self }
  static var isJSON: Bool { false }
}

/// As hexadecimal digits, two for each byte.
extension Array: TextConvertible where Element == UInt8 {
  init?(text: String) {
    var digits = Array<UInt8>(text.utf8)[...]
    if digits.starts(with: Array<UInt8>("0x".utf8)) { digits = digits.dropFirst(2) }
    guard digits.count.isMultiple(of: 2) else { return nil }
    self = []
    while let high = digits.popFirst(), let low = digits.popFirst() {
      guard let h = Self.digit(high), let l = Self.digit(low) else { return nil }
      append(h << 4 | l)
    }
  }
  var text: String {
    let digits = Array<UInt8>("0123456789abcdef".utf8)
    var out: [UInt8] = []
    out.reserveCapacity(2 * count)
    for byte in self {
      out.append(digits[Int(byte >> 4)])
      out.append(digits[Int(byte & 15)])
    }
    return String(decoding: out, as: UTF8.self)
  }
  static var isJSON: Bool { false }

  private static func digit(_ c: UInt8) -> UInt8? {
    switch c {
    case 0x30...0x39: c - 0x30
    case 0x61...0x66: c - 0x61 + 10
    case 0x41...0x46: c - 0x41 + 10
    default: nil
    }
  }
}

extension UUID: TextConvertible {
  init?(text: String) { self.init(uuidString: text) }
  var text: String { uuidString }
  static var isJSON: Bool { false }
}

extension CompositeKey2: TextConvertible where First: TextConvertible, Second: TextConvertible {
  init?(text: String) {
    guard let parts = JSONText.array(text), parts.count == 2, let first = First(text: parts[0]),
      let second = Second(text: parts[1])
    else { return nil }
    self.init(first, second)
  }
  var text: String { "[\(JSONText.of(first)),\(JSONText.of(second))]" }
  static var isJSON: Bool { true }
}

extension CompositeKey3: TextConvertible
where First: TextConvertible, Second: TextConvertible, Third: TextConvertible {
  init?(text: String) {
    guard let parts = JSONText.array(text), parts.count == 3, let first = First(text: parts[0]),
      let second = Second(text: parts[1]), let third = Third(text: parts[2])
    else { return nil }
    self.init(first, second, third)
  }
  var text: String { "[\(JSONText.of(first)),\(JSONText.of(second)),\(JSONText.of(third))]" }
  static var isJSON: Bool { true }
}
