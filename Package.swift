// swift-tools-version: 6.1
import PackageDescription

// The tool's argument parser is needed only where this package is the root: a user who depends on
// the libraries (SwiftPM checks dependencies out below a folder named "checkouts") never clones it.
let isDependency = Context.packageDirectory.contains("/checkouts/")

let settings: [SwiftSetting] = [.enableUpcomingFeature("InternalImportsByDefault")]

let toolDependencies: [Package.Dependency] =
  isDependency ? [] : [.package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0")]
let toolProducts: [Product] = isDependency ? [] : [.executable(name: "nvmctl", targets: ["nvmctl"])]
let toolTargets: [Target] =
  isDependency
  ? []
  : [
    .executableTarget(
      name: "nvmctl",
      dependencies: [
        "NVM", "NVMFoundation", .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      swiftSettings: settings),
    .executableTarget(
      name: "PackageIndex", dependencies: ["NVMFoundation"], path: "Examples/PackageIndex",
      exclude: ["README.md"],
      swiftSettings: settings),
    .executableTarget(
      name: "Ages", dependencies: ["NVM"], path: "Examples/Ages", exclude: ["README.md"],
      swiftSettings: settings),
    .executableTarget(
      name: "RandomKeys", dependencies: ["NVM"], path: "Examples/RandomKeys", exclude: ["README.md"],
      swiftSettings: settings),
    .executableTarget(
      name: "StrayWrite", dependencies: ["NVM"], path: "Examples/StrayWrite", exclude: ["README.md"],
      swiftSettings: settings),
    .executableTarget(
      name: "CrashQueue", dependencies: ["NVMTesting", "NVMRegion"], path: "Examples/CrashQueue",
      exclude: ["README.md"], swiftSettings: settings),
    .testTarget(
      name: "nvmctlTests", dependencies: ["NVM", "NVMFoundation", "nvmctl"], swiftSettings: settings),
  ]

let package = Package(
  name: "swift-nvm",
  products: [
    .library(name: "NVMRegion", targets: ["NVMRegion"]),
    .library(name: "NVMalloc", targets: ["NVMalloc"]),
    .library(name: "NVMBTree", targets: ["NVMBTree"]),
    .library(name: "NVM", targets: ["NVM"]),
    .library(name: "NVMFoundation", targets: ["NVMFoundation"]),
    .library(name: "NVMTesting", targets: ["NVMTesting"]),
  ] + toolProducts,
  dependencies: toolDependencies,
  targets: [
    .systemLibrary(name: "CLibpmem", pkgConfig: "libpmem", providers: [.apt(["libpmem-dev"])]),
    .target(name: "CNVM"),
    .target(name: "NVMRegion", dependencies: ["CNVM", "CLibpmem"], swiftSettings: settings),
    .target(name: "NVMalloc", dependencies: ["NVMRegion", "CNVM"], swiftSettings: settings),
    .target(name: "NVMBTree", dependencies: ["NVMalloc", "NVMRegion", "CNVM"], swiftSettings: settings),
    .target(
      name: "NVM", dependencies: ["NVMBTree", "NVMalloc", "NVMRegion", "CNVM"], swiftSettings: settings),
    .target(
      name: "NVMFoundation", dependencies: ["NVM", "NVMBTree", "NVMRegion"],
      swiftSettings: settings),
    .target(name: "NVMTesting", dependencies: ["NVMRegion", "CNVM"], swiftSettings: settings),

    // The crash explorer pointed at everything of ours, for the tests and for `swift run nvm-explore`.
    .target(
      name: "CrashScenarios", dependencies: ["NVMTesting", "NVM", "NVMBTree", "NVMalloc", "NVMRegion"],
      swiftSettings: settings),
    .executableTarget(
      name: "nvm-explore", dependencies: ["CrashScenarios", "NVMTesting"], swiftSettings: settings),

    // Kills processes and cuts the power of file systems under a store: `swift run nvm-campaign`. The C target stands
    // in for msync and fsync in the program that links it.
    .target(name: "CNVMCut"),
    .executableTarget(
      name: "nvm-campaign", dependencies: ["NVM", "NVMBTree", "NVMalloc", "NVMRegion", "CNVM", "CNVMCut"],
      swiftSettings: settings),

    .testTarget(
      name: "NVMBTreeTests", dependencies: ["NVMBTree", "NVMalloc", "NVMRegion"], swiftSettings: settings),
    .testTarget(
      name: "NVMFoundationTests", dependencies: ["NVMFoundation", "NVMBTree", "NVMRegion"],
      swiftSettings: settings),
    .testTarget(name: "NVMallocTests", dependencies: ["NVMalloc", "NVMRegion"], swiftSettings: settings),
    // A child process for the kill tests: works on a store until it is killed.
    .target(
      name: "StoreTestModel", dependencies: ["NVM"], path: "Tests/Helpers/StoreTestModel",
      swiftSettings: settings),
    .executableTarget(
      name: "StoreTestWorker", dependencies: ["NVM", "StoreTestModel"], path: "Tests/Helpers/StoreTestWorker",
      swiftSettings: settings),
    .testTarget(
      name: "NVMTests", dependencies: ["NVM", "StoreTestModel", "StoreTestWorker"], swiftSettings: settings),
    // A child process for the tests of the region: locks, limits, fork, lost privileges.
    .executableTarget(
      name: "RegionTestHelper", dependencies: ["NVMRegion", "NVMalloc"],
      path: "Tests/Helpers/RegionTestHelper", swiftSettings: settings),
    .testTarget(
      name: "NVMRegionTests", dependencies: ["NVMRegion", "CNVM", "RegionTestHelper"], swiftSettings: settings
    ),
    .testTarget(
      name: "NVMTestingTests", dependencies: ["CrashScenarios", "NVMTesting", "NVMRegion"],
      swiftSettings: settings),
    .testTarget(name: "CampaignTests", dependencies: ["nvm-campaign"], swiftSettings: settings),
    .testTarget(name: "CrashTests", dependencies: ["CrashScenarios", "NVMTesting"], swiftSettings: settings),
  ] + toolTargets
)
