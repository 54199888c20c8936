import NVMFoundation

/// Turns the encoded keys or values of a tree into text and back, by the type name that the catalogue has.
struct TextCoder {
  let typeName: String
  /// Whether the text is a JSON value of its own.
  let isJSON: Bool
  /// Bytes of a type that the tool does not know are shown as hexadecimal digits and cannot be written.
  let isKnown: Bool
  private let toBytes: (String) -> [UInt8]?
  private let toText: ([UInt8]) -> String?

  init(key typeName: String) {
    if let type = KnownType.key(typeName) { self = Self.of(key: type) } else { self = Self.unknown(typeName) }
  }

  init(value typeName: String) {
    if let type = KnownType.value(typeName) {
      self = Self.of(value: type)
    } else if typeName.hasPrefix("JSON ") {
      // A Codable type, stored as its JSON.
      self.init(
        typeName: typeName, isJSON: true, isKnown: true,
        toBytes: { JSONText.parse($0) == nil ? nil : Array($0.utf8) },
        toText: { String(validating: $0, as: UTF8.self) })
    } else {
      self = Self.unknown(typeName)
    }
  }

  private init(
    typeName: String, isJSON: Bool, isKnown: Bool, toBytes: @escaping (String) -> [UInt8]?,
    toText: @escaping ([UInt8]) -> String?
  ) {
    (self.typeName, self.isJSON, self.isKnown) = (typeName, isJSON, isKnown)
    (self.toBytes, self.toText) = (toBytes, toText)
  }

  private static func of<T: TextKey>(key type: T.Type) -> TextCoder {
    TextCoder(
      typeName: T.durableTypeName, isJSON: T.isJSON, isKnown: true,
      toBytes: { T(text: $0)?.withKeyBytes { [UInt8]($0) } },
      toText: { bytes in bytes.withUnsafeBytes { T(keyBytes: $0)?.text } })
  }
  private static func of<T: TextValue>(value type: T.Type) -> TextCoder {
    TextCoder(
      typeName: T.durableTypeName, isJSON: T.isJSON, isKnown: true,
      toBytes: { text in
        guard let value = T(text: text) else { return nil }
        return try? value.withValueBytes { (bytes) throws(NVMError) -> [UInt8] in [UInt8](bytes) }
      },
      toText: { bytes in bytes.withUnsafeBytes { T(valueBytes: $0)?.text } })
  }
  private static func unknown(_ typeName: String) -> TextCoder {
    TextCoder(
      typeName: typeName, isJSON: false, isKnown: false, toBytes: { _ in nil }, toText: { "0x" + $0.text })
  }

  /// The encoding of a text.
  /// - Throws: a usage error that says what was expected.
  func encode(_ text: String) throws -> [UInt8] {
    guard isKnown else {
      throw ToolError(
        .usage, "The tool cannot write values of type \(typeName): only the program that has it can.")
    }
    guard let bytes = toBytes(text) else {
      let example =
        typeName.hasPrefix("(") ? ", as a JSON array" : typeName == "[UInt8]" ? ", as hexadecimal digits" : ""
      throw ToolError(.usage, "\"\(text)\" is no value of type \(typeName)\(example).")
    }
    return bytes
  }

  /// The text of an encoding.
  func decode(_ bytes: [UInt8]) throws -> String {
    guard let text = toText(bytes) else {
      throw ToolError(.corrupt, "What is stored is no value of type \(typeName): 0x\(bytes.text)")
    }
    return text
  }
}
