import Glibc

// A round that failed, as a directory: `store.nvm`, the file as the crash left it, and `round.txt`, from which all that
// it should hold is worked out again.
//
//     media MEDIA
//     threads N
//     past SEED STEPS STEPS …          a line for each earlier round of the store
//     setup 0|1
//     round SEED LEAST MOST LEAST MOST …

struct KeptRound {
  static func save(
    _ life: Life, _ expectation: Expectation, image: String, in directory: String, found: String
  ) {
    makeDirectories(directory)
    var text = "media \(life.media.rawValue)\nthreads \(life.threads)\n"
    for round in life.rounds {
      text += "past \(round.seed) " + round.steps.map(String.init).joined(separator: " ") + "\n"
    }
    text += "setup \(expectation.isSetUp ? 1 : 0)\nround \(expectation.seed)"
    for bounds in expectation.bounds { text += " \(bounds.lowerBound) \(bounds.upperBound)" }
    _ = writeFile("\(directory)/round.txt", text + "\n")
    _ = writeFile("\(directory)/found.txt", found + "\n")
    if access(image, F_OK) == 0 { _ = copyFile(image, "\(directory)/store.nvm") }
  }

  /// Checks a kept round again, on a copy of its image. What is wrong, or nil.
  static func check(_ directory: String) throws(CampaignError) -> String? {
    guard let text = readFile("\(directory)/round.txt") else {
      throw CampaignError(text: "There is no round.txt in \(directory).")
    }
    let copy = "\(directory)/copy.nvm"
    var media = StoreMedia.emulated
    var life: Life?
    var isSetUp = false
    for line in text.split(separator: "\n") {
      let words = line.split(separator: " ")
      let numbers = words.dropFirst().compactMap { UInt64($0) }
      switch words.first {
      case "media": media = StoreMedia(rawValue: String(words.last ?? "")) ?? .emulated
      case "threads":
        life = Life(
          media: media, path: copy, threads: Int(min(numbers.first ?? 1, UInt64(Board.maximumThreads))))
      case "past":
        guard let threads = life?.threads, numbers.count == threads + 1 else { throw unreadable(line) }
        life?.advance(seed: numbers[0], to: numbers.dropFirst().map { Int($0) }, isSetUp: true)
      case "setup": isSetUp = numbers.first == 1
      case "round":
        guard let life, numbers.count == 2 * life.threads + 1 else { throw unreadable(line) }
        var bounds: [ClosedRange<Int>] = []
        for thread in 0..<life.threads {
          let (least, most) = (Int(numbers[1 + 2 * thread]), Int(numbers[2 + 2 * thread]))
          guard least <= most, life.steps[thread] <= least else { throw unreadable(line) }
          bounds.append(least...most)
        }
        let expectation = Expectation(
          media: life.media, states: life.states, steps: life.steps, seed: numbers[0], isSetUp: isSetUp,
          bounds: bounds)
        if access("\(directory)/store.nvm", F_OK) == 0 { _ = copyFile("\(directory)/store.nvm", copy) }
        defer { unlink(copy) }
        return try expectation.check(copy, repeats: true, board: Board())
      default: throw unreadable(line)
      }
    }
    throw CampaignError(text: "round.txt in \(directory) names no round.")
  }

  private static func unreadable(_ line: Substring) -> CampaignError {
    CampaignError(text: "round.txt has a line that does not fit: \(line)")
  }
}
