// The order of a few unsorted words: what a scan needs of a leaf whose slots are unsorted.
#ifndef NVM_RANK_H
#define NVM_RANK_H

#include <stdint.h>

#define NVM_RANK_MAX 32

// rank[i] := how many of words[0 ..< n] are less than words[i], plus how many equal ones stand before it: the place
// of words[i] in a stable sort. n <= NVM_RANK_MAX; both arrays have room for NVM_RANK_MAX elements. Without
// branches: about n * n / 4 vector compares with AVX2.
void nvm_rank(const uint64_t *words, int n, uint8_t *rank);

#endif
