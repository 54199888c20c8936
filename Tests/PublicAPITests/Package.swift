// swift-tools-version: 6.1
import PackageDescription

// A package that depends on swift-nvm as a user's does: what it imports is public, or the tests do not build.
let package = Package(
  name: "PublicAPITests",
  dependencies: [.package(name: "swift-nvm", path: "../..")],
  targets: [
    .testTarget(
      name: "PublicAPITests",
      dependencies: [
        .product(name: "NVM", package: "swift-nvm"),
        .product(name: "NVMBTree", package: "swift-nvm"),
        .product(name: "NVMalloc", package: "swift-nvm"),
        .product(name: "NVMRegion", package: "swift-nvm"),
        .product(name: "NVMFoundation", package: "swift-nvm"),
      ])
  ]
)
