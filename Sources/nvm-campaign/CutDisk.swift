import CNVMCut
import Glibc

/// A file system in an image on a tmpfs, which can lose its power. Seen by this process and its children only; all of
/// it is gone when they have ended.
struct CutDisk {
  let type: String
  let mountPoint: String
  private let device: String
  private let loop: Int32

  /// Why there can be none here.
  struct Refusal: Error {
    var reason: String
  }

  /// Makes room for disks below `directory`: a tmpfs in a view of the mounts of this process's own.
  static func prepare(_ directory: String) throws(Refusal) {
    guard geteuid() == 0 else { throw Refusal(reason: "power cuts: only root may mount file systems") }
    var result = nvm_cut_own_mounts()
    guard result == 0 else {
      throw Refusal(reason: "power cuts: no mounts of its own for this process (\(message(result)))")
    }
    makeDirectories(directory)
    result = nvm_cut_mount("none", directory, "tmpfs", "size=4g")
    guard result == 0 else {
      throw Refusal(reason: "power cuts: no tmpfs can be mounted (\(message(result)))")
    }
  }

  /// Makes a file system, and mounts it.
  init(type: String, in directory: String) throws(Refusal) {
    self.type = type
    mountPoint = "\(directory)/\(type)"
    let image = "\(directory)/\(type).image"
    makeDirectories(mountPoint)
    let fd = Glibc.open(image, O_RDWR | O_CREAT | O_TRUNC, 0o600)
    // The least that xfs makes do with; pages of a tmpfs are taken when they are written.
    guard fd >= 0, ftruncate(fd, type == "xfs" ? 320 << 20 : 48 << 20) == 0 else {
      throw Refusal(reason: "power cuts on \(type): no image can be made in \(directory)")
    }
    close(fd)
    let made =
      type == "xfs"
      ? run("mkfs.xfs", "-q", "-f", image)
      : run("mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-J", "size=4", image)
    guard made == 0 else {
      throw Refusal(
        reason: "power cuts on \(type): mkfs.\(type) " + (made == 127 ? "is not installed" : "failed"))
    }
    var name = [CChar](repeating: 0, count: 32)
    loop = nvm_cut_attach(image, &name)
    guard loop >= 0 else { throw Refusal(reason: "power cuts on \(type): no loop device (\(message(loop)))") }
    device = String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    let result = nvm_cut_mount(device, mountPoint, type, nil)
    guard result == 0 else {
      close(loop)
      throw Refusal(reason: "power cuts on \(type): it cannot be mounted (\(message(result)))")
    }
  }

  /// Drops what is not synced. Everything on it fails until it is mounted again.
  func cut(flushesLog: Bool) throws(CampaignError) {
    let result = nvm_cut_shutdown(mountPoint, flushesLog ? 1 : 0)
    guard result == 0 else { throw CampaignError(text: "\(type) cannot be shut down (\(message(result))).") }
  }

  /// As after a power failure: only the disk knows anything.
  func mountAgain() throws(CampaignError) {
    var result = nvm_cut_unmount(mountPoint)
    guard result == 0 else { throw CampaignError(text: "\(type) cannot be unmounted (\(message(result))).") }
    result = nvm_cut_mount(device, mountPoint, type, nil)
    guard result == 0 else {
      throw CampaignError(text: "\(type) cannot be mounted again (\(message(result))).")
    }
  }

  func remove() {
    _ = nvm_cut_unmount(mountPoint)
    close(loop)
  }
}

private func message(_ result: Int32) -> String { String(cString: strerror(-result)) }

private func run(_ arguments: String...) -> Int32 {
  var pointers: [UnsafePointer<CChar>?] = arguments.map { UnsafePointer(strdup($0)) }
  pointers.append(nil)
  defer { for pointer in pointers { free(UnsafeMutableRawPointer(mutating: pointer)) } }
  return nvm_cut_run(pointers)
}
