/// The numbers of trees, 1 ..< 2²⁰, which are the owner tokens of their blocks.
///
/// Who makes a tree first frees what an interrupted attempt has left under its number. A store knows its trees by its
/// catalogue and a named root by the heap's roots, and neither knows the other's: so each has half of the numbers, or a tree
/// made by a root in a store's heap could be made of a number that the store's trees use, and free their blocks.
package enum TreeNumbers {
  /// 1 is the catalogue's.
  package static let ofStores: ClosedRange<UInt32> = 1...0x7_FFFF

  static func ofRoot(_ hash: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: hash & 0x7_FFFF) | 0x8_0000 }
}
