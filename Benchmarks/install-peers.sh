#!/bin/sh
# Installs what nvm-bench is measured beside, all from Debian (written for Debian 12, bookworm).
set -eu
packages="libpmem-dev libpmemobj-dev libjemalloc-dev libmimalloc-dev libabsl-dev liblmdb-dev libsqlite3-dev librocksdb-dev"
export DEBIAN_FRONTEND=noninteractive
if [ "$(id -u)" -eq 0 ]; then asRoot=""; else asRoot="sudo"; fi
$asRoot apt-get update
# shellcheck disable=SC2086
$asRoot apt-get install -y --no-install-recommends $packages
# Optional, for the instruction counts described in the README.
$asRoot apt-get install -y --no-install-recommends valgrind || echo "valgrind is not available; only callgrind needs it"
# shellcheck disable=SC2086
dpkg-query -W -f '${Package} ${Version}\n' $packages
