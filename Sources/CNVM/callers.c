#include "nvm_callers.h"

__attribute__((noinline)) size_t nvm_callers(uintptr_t *addresses, size_t limit) {
  const uintptr_t *frame = __builtin_frame_address(0);
  size_t count = 0;
  while (count < limit) {
    uintptr_t address = frame[1];
    if (address == 0) break;
    addresses[count++] = address;
    uintptr_t next = frame[0];
    if (next % sizeof(uintptr_t) != 0 || next <= (uintptr_t)frame || next - (uintptr_t)frame >= 1 << 20) break;
    frame = (const uintptr_t *)next;
  }
  return count;
}
