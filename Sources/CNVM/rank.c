#include "nvm_rank.h"

static void rank_portable(const uint64_t *words, int n, uint8_t *rank) {
  for (int i = 0; i < n; i++) {
    uint64_t w = words[i];
    unsigned r = 0;
    for (int j = 0; j < i; j++) r += words[j] <= w;
    for (int j = i + 1; j < n; j++) r += words[j] < w;
    rank[i] = (uint8_t)r;
  }
}

#if defined(__x86_64__)
#include <immintrin.h>

// Four words at a time against each of the others: those before the four count unless they are greater, those behind
// if they are less; among the four themselves the place decides between equal ones.
__attribute__((target("avx2"))) static void rank_avx2(const uint64_t *words, int n, uint8_t *rank) {
  const __m256i sign = _mm256_set1_epi64x((long long)0x8000000000000000ull);
  const __m256i lanes = _mm256_set_epi64x(3, 2, 1, 0);
  for (int i = 0; i < n; i += 4) {
    __m256i mine = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(words + i)), sign);
    __m256i below = _mm256_set1_epi64x(i);
    int j = 0;
    for (; j < i; j++) {
      __m256i other = _mm256_xor_si256(_mm256_set1_epi64x((long long)words[j]), sign);
      below = _mm256_add_epi64(below, _mm256_cmpgt_epi64(other, mine));
    }
    int end = i + 4 < n ? i + 4 : n;
    for (; j < end; j++) {
      __m256i other = _mm256_xor_si256(_mm256_set1_epi64x((long long)words[j]), sign);
      __m256i before = _mm256_cmpgt_epi64(lanes, _mm256_set1_epi64x(j - i));
      __m256i tie = _mm256_and_si256(_mm256_cmpeq_epi64(mine, other), before);
      below = _mm256_sub_epi64(below, _mm256_or_si256(_mm256_cmpgt_epi64(mine, other), tie));
    }
    for (; j < n; j++) {
      __m256i other = _mm256_xor_si256(_mm256_set1_epi64x((long long)words[j]), sign);
      below = _mm256_sub_epi64(below, _mm256_cmpgt_epi64(mine, other));
    }
    uint64_t out[4];
    _mm256_storeu_si256((__m256i *)out, below);
    for (int k = 0; k < 4; k++) rank[i + k] = (uint8_t)out[k];
  }
}

static int use_avx2;
__attribute__((constructor)) static void nvm_prepare_rank(void) { use_avx2 = __builtin_cpu_supports("avx2"); }

void nvm_rank(const uint64_t *words, int n, uint8_t *rank) {
  if (use_avx2) rank_avx2(words, n, rank);
  else rank_portable(words, n, rank);
}
#else
void nvm_rank(const uint64_t *words, int n, uint8_t *rank) { rank_portable(words, n, rank); }
#endif
