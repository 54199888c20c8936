import NVMFoundation

/// A package's record, stored as JSON.
struct PackageRecord: DurableCodableValue, Equatable {
  var version: String
  var section: String
  var installedKiB: Int
  var summary: String
}

/// One entry of the index: what is loaded, acknowledged and looked for again.
enum IndexEntry {
  case package(name: String, PackageRecord)
  case dependent(of: String, package: String, version: String)
}

/// Two durable trees of one store: package → record, (dependency, dependent) → the version asked for.
struct PackageIndex {
  let store: NVMStore
  let packages: DurableBTree<String, PackageRecord>
  let dependents: DurableBTree<CompositeKey2<String, String>, String>

  init(path: String, media: RegionOptions.MediaChoice) throws {
    store = try NVMStore(path: path, options: NVMStoreOptions(media: media, initialSize: 16 << 20))
    packages = try store.tree("packages", of: String.self, PackageRecord.self)
    dependents = try store.tree("dependents", of: CompositeKey2<String, String>.self, String.self)
  }

  var count: Int { packages.count + dependents.count }

  /// Durable on return.
  func add(_ entry: IndexEntry) throws {
    switch entry {
    case .package(let name, let record): try packages.updateValue(record, forKey: name)
    case .dependent(let dependency, let package, let version):
      try dependents.updateValue(version, forKey: CompositeKey2(dependency, package))
    }
  }

  func contains(_ entry: IndexEntry) throws -> Bool {
    switch entry {
    case .package(let name, let record): try packages[name] == record
    case .dependent(let dependency, let package, let version):
      try dependents[CompositeKey2(dependency, package)] == version
    }
  }

  /// The packages that depend on one: a range of the second tree.
  func packages(dependingOn name: String) throws -> [String] {
    try dependents[CompositeKey2(name, "")..<CompositeKey2(name + "\u{0}", "")].map(\.key.second)
  }

  /// The entries of a list of packages, each key once, in the order in which they are loaded.
  static func entries(of list: [Package]) -> [IndexEntry] {
    var entries: [IndexEntry] = []
    var seen: Set<String> = []
    for package in list where seen.insert(package.name).inserted {
      let record = PackageRecord(
        version: package.version, section: package.section, installedKiB: package.installedKiB,
        summary: package.summary)
      entries.append(.package(name: package.name, record))
      for (dependency, version) in package.dependencies.sorted(by: { $0.key < $1.key }) {
        entries.append(.dependent(of: dependency, package: package.name, version: version))
      }
    }
    return entries
  }
}
