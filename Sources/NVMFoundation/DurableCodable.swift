internal import Foundation
public import NVMBTree
public import NVMRegion

// Codable values are stored as JSON with sorted keys: equal values give equal bytes, other programs and a
// person with `nvmctl get` can read them, and fields can come and go as the type's `init(from:)` allows.
// Floating point is printed so that it reads back exactly; infinities and NaN, which JSON has not, are the
// strings "Infinity", "-Infinity" and "NaN". Dates are seconds since the reference date, Data is base 64.

/// A `Codable` type whose values are stored as JSON. No member is needed.
///
/// ```swift
/// struct Person: DurableCodableValue { var name: String; var born: Date? }
/// let people = try store.tree("people", of: String.self, Person.self)
/// ```
///
/// A value that does not encode makes the update throw ``NVMError/Code/invalidArgument``, before anything
/// is changed; stored bytes that do not decode read as no valid value. For types that are not yours,
/// see ``DurableCodable``. Encoding costs microseconds and allocates: for plain data in a hot path prefer
/// `DurableStruct`.
public protocol DurableCodableValue: Codable, DurableBytesValue {
  /// The name recorded in the catalogue: that of the type unless said otherwise. Say it to rename a type.
  static var durableName: String { get }
}

extension DurableCodableValue {
  public static var durableName: String { String(describing: Self.self) }

  /// `"JSON Person"`. The fields are not part of it: how they may change is up to the type's decoding.
  public static var durableTypeName: String { "JSON \(durableName)" }

  public func withValueBytes<R: ~Copyable>(
    _ body: (UnsafeRawBufferPointer) throws(NVMError) -> R
  ) throws(NVMError) -> R {
    try JSONCoding.withEncoded(self, body)
  }

  public init?(valueBytes: UnsafeRawBufferPointer) {
    guard let value = JSONCoding.decode(Self.self, from: valueBytes) else { return nil }
    self = value
  }
}

/// A value of any `Codable` type, stored as JSON.
///
/// ```swift
/// let scores = try store.tree("scores", of: String.self, DurableCodable<[String: Int]>.self)
/// try scores.updateValue(DurableCodable(["chess": 3]), forKey: "ada")
/// try scores["ada"]?.value["chess"]
/// ```
///
/// For types of your own ``DurableCodableValue`` reads better.
public struct DurableCodable<Value: Codable & Sendable>: DurableBytesValue {
  /// What is stored.
  public var value: Value

  public init(_ value: Value) { self.value = value }

  /// `"JSON Dictionary<String, Int>"`.
  public static var durableTypeName: String { "JSON \(String(describing: Value.self))" }

  /// - Throws: ``NVMError/Code/invalidArgument`` when the value does not encode.
  public func withValueBytes<R: ~Copyable>(
    _ body: (UnsafeRawBufferPointer) throws(NVMError) -> R
  ) throws(NVMError) -> R {
    try JSONCoding.withEncoded(value, body)
  }

  public init?(valueBytes: UnsafeRawBufferPointer) {
    guard let value = JSONCoding.decode(Value.self, from: valueBytes) else { return nil }
    self.value = value
  }
}

extension DurableCodable: Equatable where Value: Equatable {}
extension DurableCodable: Hashable where Value: Hashable {}

private enum JSONCoding {
  // Configured once and never changed after: sharing them between threads is safe then.
  static let encoder: JSONEncoder = {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    encoder.nonConformingFloatEncodingStrategy = .convertToString(
      positiveInfinity: "Infinity", negativeInfinity: "-Infinity", nan: "NaN")
    return encoder
  }()

  static let decoder: JSONDecoder = {
    let decoder = JSONDecoder()
    decoder.nonConformingFloatDecodingStrategy = .convertFromString(
      positiveInfinity: "Infinity", negativeInfinity: "-Infinity", nan: "NaN")
    return decoder
  }()

  static func withEncoded<T: Encodable, R: ~Copyable>(
    _ value: T, _ body: (UnsafeRawBufferPointer) throws(NVMError) -> R
  ) throws(NVMError) -> R {
    let data: Data
    do {
      data = try encoder.encode(value)
    } catch {
      throw NVMError(
        code: .invalidArgument,
        message: "This value of type \(T.self) does not encode as JSON; nothing was stored.",
        underlying: error)
    }
    return try data.bytes.withUnsafeBytes(body)
  }

  static func decode<T: Decodable>(_ type: T.Type, from bytes: UnsafeRawBufferPointer) -> T? {
    try? decoder.decode(type, from: Data(bytes))
  }
}
