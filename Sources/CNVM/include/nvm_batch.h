// Several look-ups of words side by side. A single one waits for memory three times, each time for what the time before
// brought; a group goes through the same steps together, so that its members' misses overlap.
#ifndef NVM_BATCH_H
#define NVM_BATCH_H

#include <stdint.h>

#include "nvm_descend.h"

#define NVM_BATCH 32

// The ways from the root to the leaves of up to NVM_BATCH keys, as nvm_descend goes one; NVM_NO_PLACE for those that
// met a writer. The first line of each leaf is then on its way to the cache.
void nvm_descend_many(const void *root, const void *nodes, const void *locks, const void *leaves, const uint64_t *heads,
                      int n, struct nvm_place *places);

// Finds keys in the leaves that nvm_descend_many has found: bit i of the result says that words[i] is what is stored for
// heads[i]. Where the leaf has changed since, the place is NVM_NO_PLACE afterwards, and the bit means nothing.
uint32_t nvm_find_many(const void *locks, const void *leaves, const uint64_t *heads, int n, struct nvm_place *places,
                       uint64_t *words);

#endif
