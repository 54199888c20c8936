#ifndef NVM_CALLERS_H
#define NVM_CALLERS_H

#include <stddef.h>
#include <stdint.h>

// The return addresses of the calling functions, the nearest first, found along the frame pointers, which Swift
// keeps. Ends where the chain is not one: each frame must lie above the one before, less than 1 MiB away.
// Returns how many there are, at most `limit`. A few nanoseconds each; for diagnosis only.
size_t nvm_callers(uintptr_t *addresses, size_t limit);

#endif
