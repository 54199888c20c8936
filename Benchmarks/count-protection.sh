#!/bin/sh
# What protection from stray writes costs an insert and a look-up in instructions, counted by callgrind:
# ./count-protection.sh [N]
# Where protection is off no medium stands between the primitives and the memory: "off" must equal "not asked for".
set -eu
here=$(cd "$(dirname "$0")" && pwd)
unset NVM_PROTECTION
echo "not asked for:"
"$here/count-instructions.sh" swift-nvm "${1:-100000}"
for mode in none deferred; do
  echo "NVM_PROTECTION=$mode:"
  NVM_PROTECTION=$mode "$here/count-instructions.sh" swift-nvm "${1:-100000}"
done
