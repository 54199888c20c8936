// swift-tools-version: 6.1
import PackageDescription

// The tool's argument parser is needed only where this package is the root: a user who depends on
// the libraries (SwiftPM checks dependencies out below a folder named "checkouts") never clones it.
let isDependency = Context.packageDirectory.contains("/checkouts/")

let lifetimes: [SwiftSetting] = [.enableExperimentalFeature("Lifetimes")]

let package = Package(
  name: "swift-nvm",
  products: [
    .library(name: "NVMRegion", targets: ["NVMRegion"]),
    .library(name: "NVMalloc", targets: ["NVMalloc"]),
    .library(name: "NVMBTree", targets: ["NVMBTree"]),
    .library(name: "NVM", targets: ["NVM"]),
    .library(name: "NVMFoundation", targets: ["NVMFoundation"]),
    .library(name: "NVMTesting", targets: ["NVMTesting"]),
  ],
  targets: [
    .systemLibrary(name: "CLibpmem", pkgConfig: "libpmem", providers: [.apt(["libpmem-dev"])]),
    .target(name: "CNVM"),
    .target(name: "NVMRegion", dependencies: ["CNVM", "CLibpmem"]),
    .target(name: "NVMalloc", dependencies: ["NVMRegion", "CNVM"]),
    .target(name: "NVMBTree", dependencies: ["NVMalloc", "NVMRegion", "CNVM"]),
    .target(name: "NVM", dependencies: ["NVMBTree", "NVMalloc", "NVMRegion"]),
    .target(name: "NVMFoundation", dependencies: ["NVM"]),
    .target(name: "NVMTesting", dependencies: ["NVM"]),

    .testTarget(name: "NVMRegionTests", dependencies: ["NVMRegion"]),
  ]
)
