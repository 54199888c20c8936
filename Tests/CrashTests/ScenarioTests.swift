import CrashScenarios
import NVMTesting
import XCTest

/// Explores every scenario of the package under every fault model, with the images of a quick run.
final class ScenarioTests: XCTestCase {
  private func explore(_ model: CrashModel) {
    var images = 0
    for scenario in Registry.all(seed: 1) {
      var options = CrashOptions(model: model)
      options.maximumImages = 120
      let report = scenario.explore(options)
      images += report.images
      XCTAssertTrue(report.violations.isEmpty, "\(report)")
      XCTAssertGreaterThan(report.images, 10, scenario.name)
    }
    print("\(images) images checked under the \(model)")
  }

  func testCacheLineModel() { explore(.cacheLine) }
  func testAutomaticFlushModel() { explore(.automaticFlush) }
  func testInPlaceFileModel() { explore(.inPlaceFile) }
  func testJournaledFileModel() { explore(.journaledFile) }
}
