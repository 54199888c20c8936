import NVMBTree
import NVMRegion

// The catalogue is a tree, number 1, whose header the heap's root "nvm.catalogue" leads to. Keys are names of
// trees, values are these entries; long enough to stand in records, which carry a checksum.
//
// OFFSET SIZE  DESCRIPTION
//      0    1  format of the entry, 0
//      1    1  kind: 0 a tree, 1 work in progress
//      2    1  key form (DurableKeyForm)
//      3    1  value form (DurableValueForm)
//      4    4  number of the tree
//      8    8  offset of the tree's header
//     16    2  length of the key type's name
//     18    2  length of the value type's name
//     20    k  key type's name, UTF-8
//   20+k    v  value type's name, UTF-8
//
// The entry of kind 1 stands under the empty name. It names a tree that is being made or removed: if the catalogue
// has no tree of that number, what lies on the medium under it belongs to nobody.

struct CatalogueEntry: DurableBytesValue, Equatable {
  static let durableTypeName = "nvm.catalogue.0"
  static let treeNumber: UInt32 = 1
  static let rootName = "nvm.catalogue"
  static let workName = ""
  private static let headerSize = 20
  static let longestTypeName = Int(UInt16.max)

  enum Kind: UInt8 {
    case tree = 0
    case work = 1
  }
  var kind = Kind.tree
  var keyForm: DurableKeyForm
  var valueForm: DurableValueForm
  var number: UInt32
  var handle: Offset
  var keyTypeName: String
  var valueTypeName: String

  /// The mark that the tree of this number is being made or removed.
  static func work(on number: UInt32) -> CatalogueEntry {
    CatalogueEntry(
      kind: .work, keyForm: .word, valueForm: .word, number: number, handle: .null, keyTypeName: "",
      valueTypeName: "")
  }

  func withValueBytes<R: ~Copyable>(
    _ body: (UnsafeRawBufferPointer) throws(NVMError) -> R
  ) throws(NVMError) -> R {
    let key = Array(keyTypeName.utf8)
    let value = Array(valueTypeName.utf8)
    guard key.count <= Self.longestTypeName, value.count <= Self.longestTypeName else {
      throw NVMError(code: .tooLarge, message: "The name of a key or value type is too long to be recorded.")
    }
    var bytes: [UInt8] = [0, kind.rawValue, keyForm.rawValue, valueForm.rawValue]
    withUnsafeBytes(of: number.littleEndian) { bytes += $0 }
    withUnsafeBytes(of: handle.rawValue.littleEndian) { bytes += $0 }
    withUnsafeBytes(of: UInt16(key.count).littleEndian) { bytes += $0 }
    withUnsafeBytes(of: UInt16(value.count).littleEndian) { bytes += $0 }
    bytes += key
    bytes += value
    return try bytes.span.withUnsafeBytes(body)
  }

  init?(valueBytes b: UnsafeRawBufferPointer) {
    guard b.count >= Self.headerSize, b[0] == 0, let kind = Kind(rawValue: b[1]),
      let keyForm = DurableKeyForm(rawValue: b[2]), let valueForm = DurableValueForm(rawValue: b[3])
    else { return nil }
    let keyLength = Int(UInt16(littleEndian: b.loadUnaligned(fromByteOffset: 16, as: UInt16.self)))
    let valueLength = Int(UInt16(littleEndian: b.loadUnaligned(fromByteOffset: 18, as: UInt16.self)))
    let middle = Self.headerSize + keyLength
    guard b.count == middle + valueLength,
      let keyTypeName = String(validating: b[Self.headerSize..<middle], as: UTF8.self),
      let valueTypeName = String(validating: b[middle...], as: UTF8.self)
    else { return nil }
    self.init(
      kind: kind, keyForm: keyForm, valueForm: valueForm,
      number: UInt32(littleEndian: b.loadUnaligned(fromByteOffset: 4, as: UInt32.self)),
      handle: Offset(rawValue: UInt64(littleEndian: b.loadUnaligned(fromByteOffset: 8, as: UInt64.self))),
      keyTypeName: keyTypeName, valueTypeName: valueTypeName)
  }

  init(
    kind: Kind = .tree, keyForm: DurableKeyForm, valueForm: DurableValueForm, number: UInt32, handle: Offset,
    keyTypeName: String, valueTypeName: String
  ) {
    (self.kind, self.keyForm, self.valueForm, self.number, self.handle) = (
      kind, keyForm, valueForm, number, handle
    )
    (self.keyTypeName, self.valueTypeName) = (keyTypeName, valueTypeName)
  }
}
