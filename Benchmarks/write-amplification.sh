#!/bin/sh
# Bytes written to the disk for each byte of user data: ours, LMDB, SQLite, RocksDB. On a file system of its own, so that
# the block device counts nobody else's; in memory, so that it does not take all day.
#   sudo ./write-amplification.sh [SIZE OF THE DISK] [OPTIONS OF nvm-bench amplification]     build for release first
set -eu
here=$(cd "$(dirname "$0")" && pwd)
size=${1:-6G}
[ $# -eq 0 ] || shift
image=$(mktemp /dev/shm/nvm-bench-disk.XXXXXX)
truncate -s "$size" "$image"
loop=$(losetup -f --show "$image")
mount=$(mktemp -d)
trap 'umount "$mount"; losetup -d "$loop"; rmdir "$mount"; rm -f "$image"' EXIT
mkfs.ext4 -q "$loop"
mount "$loop" "$mount"
"$here/.build/release/nvm-bench" amplification --media file --path "$mount" "$@"
