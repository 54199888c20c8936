// swift-tools-version: 6.1
import PackageDescription

// Benchmarks of swift-nvm beside what a user would pick instead. A package of its own, so that users of
// the library never meet the peers. `./install-peers.sh` installs them from Debian.

let cxx: [CXXSetting] = [.define("NDEBUG")]

let package = Package(
  name: "Benchmarks",
  products: [.executable(name: "nvm-bench", targets: ["nvm-bench"])],
  dependencies: [
    .package(name: "swift-nvm", path: ".."),
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0"),
    .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
  ],
  targets: [
    // Clock, results, rings; the counters of what libpmem is asked for.
    .target(name: "CBench", linkerSettings: [.linkedLibrary("pmem")]),
    .target(
      name: "PeerTrees", dependencies: ["CBench"], cxxSettings: cxx,
      linkerSettings: [
        .linkedLibrary("absl_throw_delegate"), .linkedLibrary("absl_raw_logging_internal"),
        .linkedLibrary("lmdb"), .linkedLibrary("pmemobj"),
      ]),
    // glibc and the ideal heaps; jemalloc and mimalloc loaded at run time, so that none replaces another.
    .target(
      name: "PeerHeaps", dependencies: ["CBench"], cxxSettings: cxx,
      linkerSettings: [.linkedLibrary("pmemobj"), .linkedLibrary("dl")]),
    .target(
      name: "PeerStores", dependencies: ["CBench"], cxxSettings: cxx,
      linkerSettings: [.linkedLibrary("lmdb"), .linkedLibrary("sqlite3"), .linkedLibrary("rocksdb")]),
    .executableTarget(
      name: "nvm-bench",
      dependencies: [
        "CBench", "PeerTrees", "PeerHeaps", "PeerStores",
        .product(name: "NVMRegion", package: "swift-nvm"),
        .product(name: "NVMalloc", package: "swift-nvm"),
        .product(name: "NVMBTree", package: "swift-nvm"),
        .product(name: "NVM", package: "swift-nvm"),
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
        .product(name: "Histogram", package: "hdrhistogram-swift"),
      ]),
  ],
  cxxLanguageStandard: .cxx17
)
