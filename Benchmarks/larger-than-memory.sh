#!/bin/sh
# Look-ups in stores four times as large as the memory that the process may have, page cache included, ours beside LMDB.
#   sudo ./larger-than-memory.sh [DIRECTORY ON A DISK] [ENTRIES] [OPTIONS OF nvm-bench large]     build for release first
# In a control group of its own, of version 2 where the memory controller is there, else of version 1.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
disk=${1:-${TMPDIR:-/tmp}}
entries=${2:-16000000}
[ $# -lt 2 ] || shift
[ $# -lt 1 ] || shift
# Ours has at least 17 bytes an entry on the disk.
limit=$((entries * 17 / 4))
name=nvm-bench-$$
if grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null; then
  group=/sys/fs/cgroup/$name
  mkdir "$group"
  echo "$limit" > "$group/memory.max"
else
  group=/sys/fs/cgroup/memory/$name
  mkdir "$group"
  echo "$limit" > "$group/memory.limit_in_bytes"
fi
trap 'rmdir "$group"' EXIT
echo "limit: $((limit >> 20)) MiB, $group"
sh -c 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"' sh "$group" \
  "$here/.build/release/nvm-bench" large --media file --path "$disk" --n "$entries" --peers LMDB "$@"
