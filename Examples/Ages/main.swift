import NVM

// A program that remembers. Run it twice.

let path = CommandLine.arguments.dropFirst().first ?? "ages.nvm"

do {
  let store = try NVMStore(path: path)  // opens, or creates; recovers after a crash
  let ages = try store.tree("ages", of: String.self, Int.self)
  let visits = try store.tree("visits", of: UInt64.self, String.self)

  try ages.updateValue(41, forKey: "ada")  // durable when it returns
  try ages.updateValue(25, forKey: "bob")
  if let age = try ages["ada"] { print("ada is \(age)") }

  for (name, age) in try ages["a"..<"n"] {  // in key order, lazily
    print("\(name): \(age)")
  }

  try store.write { tx in  // several trees, all or nothing
    try tx[ages].updateValue(42, forKey: "ada")
    let number = (try visits.last?.key ?? 0) + 1
    try tx[visits].updateValue("ada had a birthday", forKey: number)
  }
  print("\(visits.count) visits so far")

  try store.close()
} catch {
  print(error)  // an NVMError: what happened, where, and what to do
}
