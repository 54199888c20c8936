#!/bin/sh
# Installs the peers, builds, runs every suite, and writes tables, charts and a page.
#   ./run-all.sh [DIRECTORY]            default: Results
#   NVM_BENCH_DISK=DIR                  where the disk suites put their files; default: the temporary directory
#   NVM_BENCH_OPTIONS="--runs 5"        for every suite
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/Results}
disk=${NVM_BENCH_DISK:-${TMPDIR:-/tmp}}
extra=${NVM_BENCH_OPTIONS:-}
[ "${NVM_BENCH_INSTALLED:-}" ] || "$here/install-peers.sh"
cd "$here"
swift build -c release
bench=$here/.build/release/nvm-bench
mkdir -p "$out"
run() {
  name=$1
  shift
  echo "== $name"
  # shellcheck disable=SC2086
  "$bench" "$@" $extra --json "$out/$name.json" | tee "$out/$name.txt"
}
run region region
run tree tree --threads 1,2
run heap heap
run heap-2-threads heap --threads 2
run store store
run recovery recovery
# What it shows is counts, which hardly differ from round to round.
run wear wear --runs 1
run protect protect
run groups groups
run groups-file groups --media file --path "$disk" --n 20000
run region-inplace region --media inplace --path "$disk"
run store-inplace store --media inplace --path "$disk"
run store-file store --media file --path "$disk"
sed -n '1,/^media/p' "$out/tree.txt" > "$out/machine.txt"
"$bench" report "$out" --label "$(git -C "$here" rev-parse --short HEAD)"
