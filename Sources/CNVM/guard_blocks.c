#define _GNU_SOURCE
#include <sys/mman.h>

#include "guard_internal.h"

// Blocks of 32 granules, in the deferred way.
//
// Where a program stores all over its data, granules that are closed one by one open again one by one, by a
// fault each; and each border between open and closed pages in a large page costs the processor its one
// translation for all of it. So a block is opened and closed as one as long as three quarters of it are in
// use anyway:
//
//   dense          24 of its 32 granules were stored to within the last two intervals, some of them in the
//                  last one. Its other granules stay open, or are opened by the batch, and wait in the queue as
//                  if they had been stored to.
//   opens as one   by the first fault, if it was dense in the time before it was last closed as a whole. A
//                  block that is then stored to in two intervals running without being dense, or closes
//                  without having been, opens granule by granule from then on.
//
// So what is open and not in use is a third of what is, at most, and a block for two intervals each time that
// a program ceases to use it densely. All of it closes one to two intervals after the last store to it.

#define DENSE_GRANULES 24

static uint64_t block_bits(uint64_t block) {
  return ((1ull << NVM_GUARD_BLOCK) - 1) << (block * NVM_GUARD_BLOCK % 64);
}
// [first, end) of a block, as far as it is mapped.
static void block_range(struct guard *g, uint64_t block, uint64_t *first, uint64_t *end) {
  uint64_t mapped = guard_mapped_granules(g);
  *first = block * NVM_GUARD_BLOCK;
  *end = *first + NVM_GUARD_BLOCK < mapped ? *first + NVM_GUARD_BLOCK : mapped;
}

void guard_grant_range(struct guard *g, uint64_t granule, uint64_t *first, uint64_t *end) {
  uint64_t block = granule / NVM_GUARD_BLOCK;
  if (atomic_load(&g->blocks[block]) & GUARD_BLOCK_DENSE) block_range(g, block, first, end);
}

void guard_blocks_changed(struct guard *g, uint64_t first, uint64_t end) {
  const uint8_t others = (uint8_t)~GUARD_BLOCK_ASKED;
  if (first % NVM_GUARD_BLOCK != 0) atomic_fetch_and(&g->blocks[first / NVM_GUARD_BLOCK], others);
  if (end % NVM_GUARD_BLOCK != 0) atomic_fetch_and(&g->blocks[end / NVM_GUARD_BLOCK], others);
}

// A block that is open as a whole: large pages, if they are wanted and may be gone. A third of a millisecond
// when the pages must be copied.
static void ask_for_large(struct guard *g, uint64_t first, uint64_t flags) {
  if ((flags & GUARD_BLOCK_LARGE) == 0 || (flags & GUARD_BLOCK_ASKED) != 0) return;
  atomic_fetch_or(&g->blocks[first / NVM_GUARD_BLOCK], GUARD_BLOCK_ASKED);
  const int collapse = 25;  // MADV_COLLAPSE, Linux 6.1
  madvise((void *)(g->seen.base + (first << NVM_GRANULE_SHIFT)), NVM_GUARD_BLOCK * NVM_GRANULE, collapse);
}

uint64_t guard_review_blocks(struct guard *g, uint64_t word, uint64_t closing, uint64_t ahead, uint64_t idle,
                             bool all) {
  uint64_t kept = 0, touched = g->touched[word];
  g->touched[word] = all ? 0 : closing;
  for (uint64_t block = word * (64 / NVM_GUARD_BLOCK); block < (word + 1) * (64 / NVM_GUARD_BLOCK); block++) {
    uint64_t bits = block_bits(block);
    uint8_t flags = atomic_load(&g->blocks[block]);
    int used = __builtin_popcountll((closing | touched) & bits);
    bool isDense = (closing & bits) != 0 && used >= DENSE_GRANULES;
    if (isDense) {
      atomic_fetch_or(&g->blocks[block], GUARD_BLOCK_DENSE | GUARD_BLOCK_PROVED);
    } else if ((closing & bits) != 0 && (touched & bits) != 0) {
      atomic_fetch_and(&g->blocks[block], (uint8_t)~(GUARD_BLOCK_DENSE | GUARD_BLOCK_PROVED));
    }
    if (isDense && !all) {
      kept |= idle & bits;
      uint64_t first, end;
      block_range(g, block, &first, &end);
      uint64_t shut = bits & ~atomic_load(&g->open[word]);
      if (end - first < NVM_GUARD_BLOCK) {
        // Not mapped as a whole.
      } else if (shut == 0) {
        ask_for_large(g, first, flags);
      } else if (guard_open_run(g, first, end) == 0) {
        uint64_t opened = (uint64_t)__builtin_popcountll(shut);
        atomic_fetch_add_explicit(&g->count_ahead, opened, memory_order_relaxed);
        kept |= shut;
        ask_for_large(g, first, atomic_load(&g->blocks[block]));
      }
    } else if ((idle & bits) != 0 && (((closing | ahead) & bits) == 0 || all)) {
      // Closes as a whole: what was it like?
      bool isProved = isDense || (flags & GUARD_BLOCK_PROVED) != 0;
      uint8_t forget = isProved ? GUARD_BLOCK_PROVED : GUARD_BLOCK_PROVED | GUARD_BLOCK_DENSE;
      atomic_fetch_and(&g->blocks[block], (uint8_t)~forget);
    }
  }
  return kept;
}

int nvm_guard_want_large(struct nvm_guard *guard, uint64_t offset, uint64_t count) {
  struct guard *g = (struct guard *)guard;
  if (g->mode != NVM_GUARD_DEFERRED || count == 0) return 0;
  const uint64_t size = NVM_GUARD_BLOCK * NVM_GRANULE;
  for (uint64_t block = offset / size; block <= (offset + count - 1) / size; block++)
    if (block < g->granules / NVM_GUARD_BLOCK) atomic_fetch_or(&g->blocks[block], GUARD_BLOCK_LARGE);
  return 1;
}
