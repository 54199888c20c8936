// Search in a few dozen sorted words: what a descent does at each inner node.
#ifndef NVM_SEARCH_H
#define NVM_SEARCH_H

#include <stdint.h>

#define NVM_SEARCH_WORDS 80

// How many of NVM_SEARCH_WORDS ascending words are <= key. Where the processor has wide vectors all of them are
// compared, without branches: no load waits for another, as those of a binary search do, and nothing is mispredicted.
// A concurrent writer may change the words meanwhile: the result then is any number up to NVM_SEARCH_WORDS, and
// callers validate a version afterwards.
uint32_t nvm_count_le(const uint64_t *words, uint64_t key);
// The same of 16 words: where it is known which ones to look at.
uint32_t nvm_count_le16(const uint64_t *words, uint64_t key);

#endif
