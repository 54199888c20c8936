import Foundation
import NVMFoundation

typealias TextKey = DurableKey & TextConvertible
typealias TextValue = DurableValue & TextConvertible

/// The types that the tool can make trees of, by the names that people and catalogues use.
enum KnownType {
  /// Key and value type in one, for all but the composite ones.
  private static let plain: [any (TextKey & DurableValue).Type] = [
    String.self, [UInt8].self, Int8.self, Int16.self, Int32.self, Int64.self, UInt8.self, UInt16.self,
    UInt32.self,
    UInt64.self, Int128.self, UInt128.self, Bool.self, Float.self, Double.self, UUID.self, Date.self,
  ]
  private static let aliases = ["int": "Int64", "uint": "UInt64", "bytes": "[UInt8]", "data": "[UInt8]"]

  private static func plain(_ name: String) -> (any (TextKey & DurableValue).Type)? {
    let name = name.lowercased()
    let wanted = (aliases[name] ?? name).lowercased()
    return plain.first { $0.durableTypeName.lowercased() == wanted }
  }

  static func value(_ name: String) -> (any TextValue.Type)? {
    plain(name.trimmingCharacters(in: .whitespaces))
  }

  static func key(_ name: String) -> (any TextKey.Type)? {
    let name = name.trimmingCharacters(in: .whitespaces)
    guard name.hasPrefix("(") else { return plain(name) }
    guard let parts = parts(name) else { return nil }
    let types = parts.compactMap(key)
    guard types.count == parts.count else { return nil }
    switch types.count {
    case 2: return pair(types[0], types[1])
    case 3: return triple(types[0], types[1], types[2])
    default: return nil
    }
  }

  private static func pair<A: TextKey, B: TextKey>(_ a: A.Type, _ b: B.Type) -> any TextKey.Type {
    CompositeKey2<A, B>.self
  }
  private static func triple<A: TextKey, B: TextKey, C: TextKey>(
    _ a: A.Type, _ b: B.Type, _ c: C.Type
  ) -> any TextKey.Type {
    CompositeKey3<A, B, C>.self
  }

  /// "(A,(B,C))" to ["A", "(B,C)"].
  static func parts(_ name: String) -> [String]? {
    guard name.hasPrefix("("), name.hasSuffix(")") else { return nil }
    var parts = [""]
    var depth = 0
    for character in name.dropFirst().dropLast() {
      if character == "(" { depth += 1 }
      if character == ")" { depth -= 1 }
      guard depth >= 0 else { return nil }
      if character == ",", depth == 0 { parts.append("") } else { parts[parts.count - 1].append(character) }
    }
    return depth == 0 ? parts : nil
  }

  static let list =
    "String, Bytes, Int8 … Int128, UInt8 … UInt128, Int, UInt, Bool, Float, Double, UUID, Date"
}
