#include "nvm_descend.h"

#include "nvm_atomic.h"
#include "nvm_search.h"

// The body, once for each way to compare. Of the nodes above the lowest ones, which are few and near, two lines are
// looked at, chosen by the pivots; of a lowest one all, since they then arrive side by side and none waits for another.
#define DESCEND(name, attributes, count_all, count_sixteen)                                                   \
  attributes static struct nvm_place name(const void *root, const char *nodes, const char *locks,             \
                                          const char *leaves, uint64_t head) {                                \
    const struct nvm_place none = {NVM_NO_PLACE, 0};                                                          \
    const void *parent = root;                                                                                \
    uint64_t parent_version = nvm_load_acquire(root);                                                         \
    uint64_t height = parent_version >> 32;                                                                   \
    uint64_t node = (uint32_t)parent_version;                                                                 \
    for (; height > 0; height--) {                                                                            \
      const char *inner = nodes + (node << NVM_INNER_SHIFT);                                                  \
      uint64_t version = nvm_load_acquire(inner);                                                             \
      if (version & 1 || nvm_load_relaxed(parent) != parent_version) return none;                             \
      uint64_t count = nvm_load_acquire(inner + NVM_INNER_COUNT);                                             \
      const uint64_t *heads = (const uint64_t *)(inner + NVM_INNER_HEADS);                                    \
      uint64_t child;                                                                                         \
      if (height == 1) {                                                                                      \
        for (int i = 0; i < 5; i++) nvm_prefetch(inner + NVM_INNER_CHILDREN + 64 * i);                        \
        child = count_all(heads, head);                                                                       \
      } else {                                                                                                \
        uint64_t part = 0;                                                                                    \
        for (int i = 0; i < 4; i++) part += nvm_load_relaxed(inner + NVM_INNER_PIVOTS + 8 * i) <= head;       \
        child = 16 * part + count_sixteen(heads + 16 * part, head);                                           \
      }                                                                                                       \
      if (child > count) child = count;                                                                       \
      if (child > NVM_INNER_CAPACITY) child = NVM_INNER_CAPACITY;                                             \
      node = nvm_load32_relaxed(inner + NVM_INNER_CHILDREN + 4 * child);                                      \
      nvm_acquire_fence();                                                                                    \
      if (nvm_load_relaxed(inner) != version) return none;                                                    \
      parent = inner;                                                                                         \
      parent_version = version;                                                                               \
    }                                                                                                         \
    const char *leaf = leaves + (node << NVM_LEAF_SHIFT);                                                     \
    for (int i = 0; i < 8; i++) nvm_prefetch(leaf + 64 * i);                                                  \
    uint64_t version = nvm_load_acquire(locks + 8 * node);                                                    \
    if (version & 1 || nvm_load_relaxed(parent) != parent_version) return none;                               \
    return (struct nvm_place){version, node};                                                                 \
  }

#if defined(__x86_64__)
#include <immintrin.h>

#define WIDE __attribute__((target("avx512f,avx512dq,popcnt"), no_sanitize("thread")))
WIDE __attribute__((always_inline)) static inline uint64_t count_all_wide(const uint64_t *words, uint64_t key) {
  const __m512i k = _mm512_set1_epi64((long long)key);
  uint64_t n = 0;
#pragma clang loop unroll(full)
  for (int i = 0; i < NVM_SEARCH_WORDS; i += 8) {
    n += (uint64_t)__builtin_popcount(_mm512_cmple_epu64_mask(_mm512_loadu_si512(words + i), k));
  }
  return n;
}
WIDE __attribute__((always_inline)) static inline uint64_t count_sixteen_wide(const uint64_t *words, uint64_t key) {
  const __m512i k = _mm512_set1_epi64((long long)key);
  __mmask8 low = _mm512_cmple_epu64_mask(_mm512_loadu_si512(words), k);
  __mmask8 high = _mm512_cmple_epu64_mask(_mm512_loadu_si512(words + 8), k);
  return (uint64_t)__builtin_popcount((uint32_t)low) + (uint64_t)__builtin_popcount((uint32_t)high);
}
DESCEND(descend_wide, WIDE, count_all_wide, count_sixteen_wide)

#endif

DESCEND(descend_plain, , nvm_count_le, nvm_count_le16)

nvm_descent *nvm_best_descent = descend_plain;

#if defined(__x86_64__)
__attribute__((constructor)) static void nvm_choose_descent(void) {
  __builtin_cpu_init();  // this runs in a constructor
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) nvm_best_descent = descend_wide;
}
#endif

void nvm_inner_insert(void *inner, int count, int i, uint64_t head, uint32_t child) {
  char *base = (char *)inner;
  uint64_t *heads = (uint64_t *)(base + NVM_INNER_HEADS);
  uint32_t *children = (uint32_t *)(base + NVM_INNER_CHILDREN);
  for (int k = count; k > i; k--) nvm_store_relaxed(heads + k, nvm_load_relaxed(heads + k - 1));
  for (int k = count; k > i; k--) nvm_store32_relaxed(children + k + 1, nvm_load32_relaxed(children + k));
  nvm_store_relaxed(heads + i, head);
  nvm_store32_relaxed(children + i + 1, child);
  for (int k = 0; k < 4; k++) nvm_store_relaxed(base + NVM_INNER_PIVOTS + 8 * k, nvm_load_relaxed(heads + 16 * k + 15));
  nvm_store_release(base + NVM_INNER_COUNT, (uint64_t)count + 1);
}
