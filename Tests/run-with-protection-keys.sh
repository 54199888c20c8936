#!/usr/bin/env bash
# The tests under protection keys, on a machine without them: in a virtual machine whose processor qemu emulates.
#
#   Tests/run-with-protection-keys.sh                  the tests of protection; then many of region, heap, tree and store,
#                                                      and the crash explorer, under NVM_PROTECTION=keys
#   Tests/run-with-protection-keys.sh CLASS[,CLASS]…   these classes (Module.Class) under NVM_PROTECTION=keys
#
# Build before: swift build --build-tests. Needs qemu-system-x86, busybox-static and cpio
# (apt-get install --no-install-recommends qemu-system-x86 busybox-static cpio), and a kernel with serial console and
# tmpfs built in: KERNEL=/boot/vmlinuz-…, or else Debian's linux-image-cloud-amd64 is downloaded and unpacked, not
# installed. The exit status is the tests'. Nothing of the machine is changed, no root is needed, and nothing can be
# measured there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=${BUILD:-.build/debug}
timeout=${TIMEOUT:-3600}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { printf '%s\n' "$*" >&2; exit 2; }

tests=$build/swift-nvmPackageTests.xctest
[ -x "$tests" ] || fail "No $tests. Run: swift build --build-tests"
for tool in qemu-system-x86_64 busybox cpio ldd; do
  command -v "$tool" >/dev/null || fail "No $tool. See the first lines of $0 for what to install."
done
ldd "$(command -v busybox)" >/dev/null 2>&1 && fail "This busybox needs libraries: install busybox-static."

kernel=${KERNEL:-}
if [ -z "$kernel" ]; then
  kernel=$(ls .build/keys-kernel/boot/vmlinuz-* 2>/dev/null | head -n 1 || true)
fi
if [ -z "$kernel" ]; then
  package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image/ { print $2; exit }')
  [ -n "$package" ] || fail "No kernel. Name one: KERNEL=/boot/vmlinuz-… $0"
  mkdir -p .build/keys-kernel
  (cd .build/keys-kernel && apt-get download "$package" && dpkg -x ./"$package"_*.deb . && rm -rf ./*.deb lib usr)
  kernel=$(ls .build/keys-kernel/boot/vmlinuz-* | head -n 1)
fi

# The file system: busybox, the programs without what a debugger needs, and the libraries that they name.
root=$work/root
mkdir -p "$root"/{bin,proc,sys,dev,tmp,tests,etc}
cp "$(command -v busybox)" "$root/bin/busybox"
cp /etc/passwd /etc/group "$root/etc/"
programs=(swift-nvmPackageTests.xctest)
for program in RegionTestHelper StoreTestWorker nvmctl nvm-explore nvm-campaign StrayWrite; do
  [ -x "$build/$program" ] && programs+=("$program")
done
for program in "${programs[@]}"; do
  strip -g -o "$root/tests/$program" "$build/$program"
  ldd "$build/$program"
done | awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' | sort -u > "$work/libraries"
while read -r library; do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done < "$work/libraries"

# Each store flushes what the emulated processor remembers of pages: tests that make many are left out.
protection='NVMRegionTests.ProtectionTests,NVMRegionTests.StrayWriteTests'
wide=NVMRegionTests.OpenCloseTests,NVMRegionTests.GrowthTests,NVMRegionTests.PersistGroupTests
wide+=,NVMRegionTests.JournaledFileTests,NVMRegionTests.InPlaceFileTests
wide+=,NVMallocTests.AllocationTests,NVMallocTests.PublishTests,NVMallocTests.GroupTests
wide+=,NVMBTreeTests.TreeCursorTests,NVMBTreeTests.TreeAccessTests/testAtomicUpdates
wide+=,NVMBTreeTests.TreeAccessTests/testRangesInBothDirections,NVMBTreeTests.TreeAccessTests/testBulkLoad
wide+=,NVMBTreeTests.TreeGroupTests/testOtherThreads,NVMBTreeTests.TreeGroupTests/testManyThreads
wide+=,NVMTests.TransactionTests,NVMTests.CatalogueTests,NVMTests.GroupTests
{
  cat <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp SWIFT_BACKTRACE=enable=no LC_ALL=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t tmpfs -o size=1g shm /dev/shm
mount -t tmpfs -o size=1g tmp /tmp
ifconfig lo 127.0.0.1 up
ulimit -c 0
cd /tests
status=0
grep -qw ospke /proc/cpuinfo || { echo "This machine has no protection keys after all."; status=2; }
run() { echo "\$ $*"; "$@" || { status=1; echo "FAILED: $*"; }; }
INIT
  if [ $# -gt 0 ]; then
    printf 'export NVM_PROTECTION=keys\nrun ./swift-nvmPackageTests.xctest %q\n' "$*"
  else
    printf 'run ./swift-nvmPackageTests.xctest %q\n' "$protection"
    printf 'export NVM_PROTECTION=keys\nrun ./swift-nvmPackageTests.xctest %q\n' "$wide"
    for scenario in heap-publish tree-group store-transactions; do
      printf '[ ! -x nvm-explore ] || run ./nvm-explore --scenario %s --images 50 --model cacheline\n' "$scenario"
    done
  fi
  printf 'echo "exit status: $status"\nsync\npoweroff -f\n'
} > "$root/init"
chmod +x "$root/init"
(cd "$root" && find . -print0 | cpio --null --quiet -o -H newc) > "$work/initramfs"

echo "Starting $(basename "$kernel"), $(($(stat -c %s "$work/initramfs") >> 20)) MiB of programs."
timeout "$timeout" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m "${MEMORY:-4096}" -nodefaults \
  -no-reboot -nographic -serial stdio -kernel "$kernel" -initrd "$work/initramfs" \
  -append 'console=ttyS0 quiet panic=-1' </dev/null | sed -u 's:\r::g' | tee "$work/output" || true
status=$(sed -n 's/^exit status: //p' "$work/output" | tail -n 1)
[ -n "$status" ] || fail "The machine stopped before the tests had ended."
exit "$status"
