#!/bin/sh
# Instructions per insert and look-up under callgrind, loop and checks included: ./count-instructions.sh [CONTESTANT [N]]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
who=${1:-swift-nvm}
n=${2:-100000}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# valgrind reads symbols, but not this compiler's debug information.
strip --strip-debug -o "$work/nvm-bench" "${NVM_BENCH:-$here/.build/release/nvm-bench}"
# Otherwise the program starts itself again, outside of valgrind.
export PMEM_IS_PMEM_FORCE=1 GLIBC_TUNABLES=glibc.rtld.optional_static_tls=16384
for what in countedInserts countedLookUps; do
  valgrind --tool=callgrind --callgrind-out-file="$work/$what" --toggle-collect="*$what*" \
    "$work/nvm-bench" instructions --contestant "$who" --n "$n" > "$work/log" 2>&1 || { cat "$work/log"; exit 1; }
  total=$(sed -n 's/^==[0-9]*== Collected : //p' "$work/log")
  echo "$who, $what: $((total / n)) instructions each"
done
