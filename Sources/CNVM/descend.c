#include "nvm_descend.h"

#include "nvm_atomic.h"
#include "nvm_search.h"

// The body, once for each way to search. Of a lowest node all children are fetched at once with what tells which of
// them: they arrive side by side, and none waits for another.
#define DESCEND(name, attributes, child_of)                                                                   \
  attributes struct nvm_place name(const void *root, const char *nodes, const char *locks,                    \
                                   const char *leaves, uint64_t head) {                                       \
    const struct nvm_place none = {NVM_NO_PLACE, 0};                                                          \
    const void *parent = root;                                                                                \
    uint64_t parent_version = nvm_load_acquire(root);                                                         \
    uint64_t height = parent_version >> 32;                                                                   \
    uint64_t node = (uint32_t)parent_version;                                                                 \
    for (; height > 0; height--) {                                                                            \
      const char *inner = nodes + node * NVM_INNER_SIZE;                                                      \
      if (height == 1) {                                                                                      \
        for (int i = 0; i < 5; i++) nvm_prefetch(inner + NVM_INNER_CHILDREN + 64 * i);                        \
      }                                                                                                       \
      uint64_t version = nvm_load_acquire(inner);                                                             \
      if (version & 1 || nvm_load_relaxed(parent) != parent_version) return none;                             \
      uint64_t count = nvm_load_acquire(inner + NVM_INNER_COUNT);                                             \
      uint64_t child = child_of(inner, count, head, height == 1);                                             \
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

// By the heads. Of the nodes above the lowest ones, which are few and near, two lines are looked at, chosen by the
// pivots; of a lowest one all.
static inline uint64_t child_by_heads(const char *inner, uint64_t count, uint64_t head, int is_lowest) {
  (void)count;
  const uint64_t *heads = (const uint64_t *)(inner + NVM_INNER_HEADS);
  if (is_lowest) return nvm_count_le(heads, head);
  uint64_t part = 0;
  for (int i = 0; i < 4; i++) part += nvm_load_relaxed(inner + NVM_INNER_PIVOTS + 8 * i) <= head;
  return 16 * part + nvm_count_le16(heads + 16 * part, head);
}
DESCEND(nvm_descend_by_heads, , child_by_heads)

static uint64_t lowest_child_by_heads(const char *inner, uint64_t count, uint64_t head) {
  return child_by_heads(inner, count, head, 1);
}
typedef uint64_t child_function(const char *inner, uint64_t count, uint64_t head);
static child_function *best_child = lowest_child_by_heads;

nvm_descent *nvm_best_descent = nvm_descend_by_heads;

#if defined(__x86_64__)
#include <immintrin.h>

#define WIDE __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,popcnt"), no_sanitize("thread")))

// By the guide, whose 80 words of 16 bits are compared by three instructions.
WIDE __attribute__((always_inline)) static inline uint64_t child_by_guide(const char *inner, uint64_t count, uint64_t head,
                                                                          int is_lowest) {
  (void)is_lowest;
  const uint64_t base = nvm_load_relaxed(inner + NVM_INNER_BASE);
  if (head < base) return 0;
  const uint64_t mine = (head - base) >> (nvm_load_relaxed(inner + NVM_INNER_DROPPED) & 63);
  if (mine > 0xFFFF) return count;
  const __m512i key = _mm512_set1_epi16((short)mine);
  const __m512i a = _mm512_loadu_si512(inner + NVM_INNER_GUIDE);
  const __m512i b = _mm512_loadu_si512(inner + NVM_INNER_GUIDE + 64);
  const __m256i c = _mm256_loadu_si256((const __m256i *)(inner + NVM_INNER_GUIDE + 128));
  const __mmask32 in_a = _mm512_cmple_epu16_mask(a, key), in_b = _mm512_cmple_epu16_mask(b, key);
  const __mmask16 in_c = _mm256_cmple_epu16_mask(c, _mm512_castsi512_si256(key));
  const __mmask32 ties = _mm512_cmpeq_epu16_mask(a, key) | _mm512_cmpeq_epu16_mask(b, key) |
                         _mm256_cmpeq_epu16_mask(c, _mm512_castsi512_si256(key));
  if (__builtin_expect(ties != 0, 0)) return nvm_count_le((const uint64_t *)(inner + NVM_INNER_HEADS), head);
  return (uint64_t)__builtin_popcountll((uint64_t)in_b << 32 | in_a) + (uint64_t)__builtin_popcount(in_c);
}
DESCEND(descend_by_guide, WIDE static, child_by_guide)

WIDE static uint64_t any_child_by_guide(const char *inner, uint64_t count, uint64_t head) {
  return child_by_guide(inner, count, head, 0);
}

__attribute__((constructor)) static void nvm_choose_descent(void) {
  __builtin_cpu_init();  // this runs in a constructor
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl")) {
    nvm_best_descent = descend_by_guide;
    best_child = any_child_by_guide;
  }
}
#endif

uint64_t nvm_inner_child(const void *inner, uint64_t head) {
  const char *node = (const char *)inner;
  for (int i = 0; i < 5; i++) nvm_prefetch(node + NVM_INNER_CHILDREN + 64 * i);
  uint64_t count = nvm_load_acquire(node + NVM_INNER_COUNT);
  if (count > NVM_INNER_CAPACITY) count = NVM_INNER_CAPACITY;
  const uint64_t child = best_child(node, count, head);
  return child < count ? child : count;
}

void nvm_inner_guide(void *inner) {
  char *node = (char *)inner;
  const uint64_t *heads = (const uint64_t *)(node + NVM_INNER_HEADS);
  const uint64_t count = nvm_load_relaxed(node + NVM_INNER_COUNT);
  const uint64_t base = nvm_load_relaxed(heads);
  const uint64_t range = count > 0 ? nvm_load_relaxed(heads + count - 1) - base : 0;
  const uint64_t dropped = range >> 16 ? 48 - (uint64_t)__builtin_clzll(range) : 0;
  nvm_store_relaxed(node + NVM_INNER_BASE, base);
  nvm_store_relaxed(node + NVM_INNER_DROPPED, dropped);
  for (int i = 0; i < NVM_SEARCH_WORDS; i += 4) {
    uint64_t four = 0;
    for (int k = 0; k < 4; k++) {
      // The heads behind the last separator are all ones: theirs are the largest, too.
      const uint64_t bits = (nvm_load_relaxed(heads + i + k) - base) >> dropped;
      four |= (bits < 0xFFFF ? bits : 0xFFFF) << 16 * k;
    }
    nvm_store_relaxed(node + NVM_INNER_GUIDE + 2 * i, four);
  }
}

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
