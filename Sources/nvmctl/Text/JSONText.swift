import Foundation

/// The little JSON that the tool needs: arrays for composite keys, lines of entries.
enum JSONText {
  static func of<T: TextConvertible>(_ value: T) -> String { T.isJSON ? value.text : quoted(value.text) }

  static func quoted(_ text: String) -> String {
    var out = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": out += "\\\""
      case "\\": out += "\\\\"
      case "\n": out += "\\n"
      case "\r": out += "\\r"
      case "\t": out += "\\t"
      case _ where scalar.value < 0x20:
        let digits = String(scalar.value, radix: 16)
        out += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      default: out.unicodeScalars.append(scalar)
      }
    }
    return out + "\""
  }

  /// The elements of an array as text: of a string its content, of anything else its JSON.
  static func array(_ text: String) -> [String]? {
    guard let value = parse(text) as? [Any] else { return nil }
    let texts = value.compactMap(plain)
    return texts.count == value.count ? texts : nil
  }

  static func parse(_ text: String) -> Any? {
    try? JSONSerialization.jsonObject(with: Data(text.utf8), options: [.fragmentsAllowed])
  }

  /// A parsed value as the text that a type is read from.
  static func plain(_ value: Any) -> String? {
    switch value {
    case let string as String: return string
    case let number as NSNumber:
      if CFGetIsBoolean(number) { return number.boolValue ? "true" : "false" }
      return number.stringValue
    case is NSNull: return "null"
    default:
      guard
        let data = try? JSONSerialization.data(
          withJSONObject: value, options: [.sortedKeys, .withoutEscapingSlashes])
      else { return nil }
      return String(decoding: data, as: UTF8.self)
    }
  }

  private static func CFGetIsBoolean(_ number: NSNumber) -> Bool { String(cString: number.objCType) == "c" }
}
