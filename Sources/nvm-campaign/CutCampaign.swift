struct CutCampaign {
  init(_ arguments: Arguments) {}
  mutating func run() throws(CampaignError) -> Summary { throw CampaignError(text: "wip") }
}
