#!/usr/bin/env bash
# The C shims on arm64, on any machine: compiled without a warning for two kinds of processors, run in qemu's emulation of
# one, and compared with what they work out here. Nothing of the Swift code: there is no Swift library for arm64 to link.
#
#   Tests/run-on-arm64.sh
#
# Needs clang (of the Swift toolchain), and
# apt-get install --no-install-recommends libc6-dev-arm64-cross libgcc-12-dev-arm64-cross binutils-aarch64-linux-gnu qemu-user
# Where one of them is missing it says so and exits with 2.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { printf '%s\n' "$*" >&2; exit 2; }
for tool in clang qemu-aarch64 aarch64-linux-gnu-ld; do
  command -v "$tool" >/dev/null || fail "No $tool. See the first lines of $0 for what to install."
done
[ -d /usr/aarch64-linux-gnu/include ] || fail "No libc6-dev-arm64-cross. See the first lines of $0."
gcc=$(ls -d /usr/lib/gcc-cross/aarch64-linux-gnu/* 2>/dev/null | tail -n 1)
[ -n "$gcc" ] || fail "No libgcc-12-dev-arm64-cross. See the first lines of $0."

flags=(-std=gnu11 -O2 -Wall -Wextra -Werror -ISources/CNVM/include)
arm=(--target=aarch64-linux-gnu -isystem /usr/aarch64-linux-gnu/include)
for processor in armv8-a armv8.2-a+crc; do
  for file in Sources/CNVM/*.c Sources/CNVMCut/*.c; do
    clang "${arm[@]}" -march=$processor "${flags[@]}" -ISources/CNVMCut/include -fsyntax-only "$file"
  done
done

sources=(Tests/Arm64/checks.c Sources/CNVM/*.c)
clang "${flags[@]}" -o "$work/here" "${sources[@]}" -lpthread
for file in "${sources[@]}"; do
  clang "${arm[@]}" "${flags[@]}" -c -o "$work/$(basename "$file").o" "$file"
done
library=/usr/aarch64-linux-gnu/lib
aarch64-linux-gnu-ld -static -o "$work/there" "$library/crt1.o" "$library/crti.o" "$gcc/crtbeginT.o" "$work"/*.o \
  -L"$library" -L"$gcc" --start-group -lc -lgcc -lgcc_eh --end-group "$gcc/crtend.o" "$library/crtn.o"
"$work/here" > "$work/here.txt"
# (qemu's later processors claim `dc cvap` and do not have it.)
qemu-aarch64 -cpu cortex-a57 "$work/there" > "$work/there.txt"
diff "$work/here.txt" "$work/there.txt"
cat "$work/there.txt"
