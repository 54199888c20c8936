#include "nvm_batch.h"

#include "nvm_atomic.h"
#include "nvm_hash.h"
#include "nvm_match.h"
#include "nvm_search.h"

// The body, once for each way to compare. Of each node two lines of separators and one of children are looked at, chosen
// by the pivots in its first line; those of the lowest nodes, which are many, are fetched for all keys first.
#define DESCEND_MANY(name, attributes, count_four, count_sixteen)                                                   \
  attributes static void name(const void *root, const char *nodes, const char *locks, const char *leaves,           \
                              const uint64_t *heads, int n, struct nvm_place *places) {                             \
    const uint64_t top = nvm_load_acquire(root);                                                                    \
    const char *parent[NVM_BATCH];                                                                                  \
    uint64_t parent_version[NVM_BATCH];                                                                             \
    uint64_t part[NVM_BATCH];                                                                                       \
    for (int i = 0; i < n; i++) {                                                                                   \
      places[i] = (struct nvm_place){0, (uint32_t)top};                                                             \
      parent[i] = (const char *)root;                                                                               \
      parent_version[i] = top;                                                                                      \
    }                                                                                                               \
    for (uint64_t height = top >> 32; height > 0; height--) {                                                       \
      for (int i = 0; i < n; i++) {                                                                                 \
        if (places[i].version & 1) continue;                                                                        \
        const char *inner = nodes + places[i].leaf * NVM_INNER_SIZE;                                                \
        places[i].version = nvm_load_acquire(inner);                                                                \
        part[i] = count_four((const uint64_t *)(inner + NVM_INNER_PIVOTS), heads[i]);                               \
        if (height > 1) continue;                                                                                   \
        nvm_prefetch(inner + NVM_INNER_HEADS + 128 * part[i]);                                                      \
        nvm_prefetch(inner + NVM_INNER_HEADS + 128 * part[i] + 64);                                                 \
        nvm_prefetch(inner + NVM_INNER_CHILDREN + 64 * part[i]);                                                    \
      }                                                                                                             \
      for (int i = 0; i < n; i++) {                                                                                 \
        const uint64_t version = places[i].version;                                                                 \
        if (version & 1) continue;                                                                                  \
        const char *inner = nodes + places[i].leaf * NVM_INNER_SIZE;                                                \
        const uint64_t count = nvm_load_acquire(inner + NVM_INNER_COUNT);                                           \
        uint64_t child = 16 * part[i];                                                                              \
        child += count_sixteen((const uint64_t *)(inner + NVM_INNER_HEADS) + child, heads[i]);                      \
        if (child > count) child = count;                                                                           \
        if (child > NVM_INNER_CAPACITY) child = NVM_INNER_CAPACITY;                                                 \
        const uint64_t node = nvm_load32_relaxed(inner + NVM_INNER_CHILDREN + 4 * child);                           \
        nvm_acquire_fence();                                                                                        \
        if (nvm_load_relaxed(parent[i]) != parent_version[i] || nvm_load_relaxed(inner) != version) {               \
          places[i].version = NVM_NO_PLACE;                                                                         \
          continue;                                                                                                 \
        }                                                                                                           \
        parent[i] = inner;                                                                                          \
        parent_version[i] = version;                                                                                \
        places[i].leaf = node;                                                                                      \
        if (height > 1) {                                                                                           \
          nvm_prefetch(nodes + node * NVM_INNER_SIZE);                                                              \
        } else {                                                                                                    \
          nvm_prefetch(locks + 8 * node);                                                                           \
          nvm_prefetch(leaves + (node << NVM_LEAF_SHIFT));                                                          \
        }                                                                                                           \
      }                                                                                                             \
    }                                                                                                               \
    for (int i = 0; i < n; i++) {                                                                                   \
      if (places[i].version & 1) continue;                                                                          \
      places[i].version = nvm_load_acquire(locks + 8 * places[i].leaf);                                             \
      if (nvm_load_relaxed(parent[i]) != parent_version[i]) places[i].version = NVM_NO_PLACE;                       \
    }                                                                                                               \
  }

static inline uint64_t count_four_plain(const uint64_t *words, uint64_t key) {
  uint64_t n = 0;
  for (int i = 0; i < 4; i++) n += nvm_load_relaxed(words + i) <= key;
  return n;
}
DESCEND_MANY(descend_many_plain, , count_four_plain, nvm_count_le16)

typedef void many_function(const void *, const char *, const char *, const char *, const uint64_t *, int,
                           struct nvm_place *);
static many_function *best = descend_many_plain;

#if defined(__x86_64__)
#include <immintrin.h>

#define WIDE __attribute__((target("avx512f,avx512vl,avx512dq,popcnt"), no_sanitize("thread")))
WIDE __attribute__((always_inline)) static inline uint64_t count_four_wide(const uint64_t *words, uint64_t key) {
  const __m256i k = _mm256_set1_epi64x((long long)key);
  return (uint64_t)__builtin_popcount(_mm256_cmple_epu64_mask(_mm256_loadu_si256((const __m256i *)words), k));
}
WIDE __attribute__((always_inline)) static inline uint64_t count_sixteen_wide(const uint64_t *words, uint64_t key) {
  const __m512i k = _mm512_set1_epi64((long long)key);
  __mmask8 low = _mm512_cmple_epu64_mask(_mm512_loadu_si512(words), k);
  __mmask8 high = _mm512_cmple_epu64_mask(_mm512_loadu_si512(words + 8), k);
  return (uint64_t)__builtin_popcount((uint32_t)low | (uint32_t)high << 8);
}
DESCEND_MANY(descend_many_wide, WIDE, count_four_wide, count_sixteen_wide)

__attribute__((constructor)) static void nvm_choose_many(void) {
  __builtin_cpu_init();  // this runs in a constructor
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    best = descend_many_wide;
  }
}
#endif

void nvm_descend_many(const void *root, const void *nodes, const void *locks, const void *leaves, const uint64_t *heads,
                      int n, struct nvm_place *places) {
  best(root, (const char *)nodes, (const char *)locks, (const char *)leaves, heads, n, places);
}

uint32_t nvm_find_many(const void *locks, const void *leaves, const uint64_t *heads, int n, struct nvm_place *places,
                       uint64_t *words) {
  uint32_t candidates[NVM_BATCH];
  for (int i = 0; i < n; i++) {
    candidates[i] = 0;
    if (places[i].version & 1) continue;
    const char *leaf = (const char *)leaves + (places[i].leaf << NVM_LEAF_SHIFT);
    const uint32_t live = (uint32_t)nvm_load_acquire(leaf) & NVM_LEAF_LIVE;
    candidates[i] = nvm_match32(leaf + NVM_LEAF_PRINTS, nvm_fingerprint(heads[i])) & live;
    if (candidates[i]) nvm_prefetch(leaf + NVM_LEAF_FIRST_SLOT + 16 * __builtin_ctz(candidates[i]));
  }
  uint32_t found = 0;
  for (int i = 0; i < n; i++) {
    if (places[i].version & 1) continue;
    const char *slots = (const char *)leaves + (places[i].leaf << NVM_LEAF_SHIFT) + NVM_LEAF_FIRST_SLOT;
    for (uint32_t rest = candidates[i]; rest; rest &= rest - 1) {
      const char *slot = slots + 16 * __builtin_ctz(rest);
      if (nvm_load_relaxed(slot) != heads[i]) continue;
      words[i] = nvm_load_relaxed(slot + 8);
      found |= 1u << i;
      break;
    }
    nvm_acquire_fence();
    if (nvm_load_relaxed((const char *)locks + 8 * places[i].leaf) != places[i].version) {
      places[i].version = NVM_NO_PLACE;
    }
  }
  return found;
}
