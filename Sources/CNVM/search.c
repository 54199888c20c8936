#include "nvm_search.h"

static uint32_t count_le_portable(const uint64_t *words, uint32_t n, uint64_t key) {
  uint32_t low = 0, high = n;
  while (low < high) {
    uint32_t middle = (low + high) / 2;
    if (__atomic_load_n(words + middle, __ATOMIC_RELAXED) <= key) low = middle + 1;
    else high = middle;
  }
  return low;
}

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2"), no_sanitize("thread"))) static uint32_t count_le_avx2(
    const uint64_t *words, uint64_t key) {
  // There is no unsigned compare: both sides are shifted by half the range.
  const __m256i sign = _mm256_set1_epi64x((long long)0x8000000000000000ull);
  const __m256i k = _mm256_set1_epi64x((long long)(key ^ 0x8000000000000000ull));
  __m256i even = _mm256_setzero_si256();
  __m256i odd = even;
#pragma clang loop unroll(full)
  for (uint32_t i = 0; i < NVM_SEARCH_WORDS; i += 8) {
    __m256i a = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(words + i)), sign);
    __m256i b = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(words + i + 4)), sign);
    even = _mm256_sub_epi64(even, _mm256_cmpgt_epi64(a, k));
    odd = _mm256_sub_epi64(odd, _mm256_cmpgt_epi64(b, k));
  }
  even = _mm256_add_epi64(even, odd);
  __m128i sum = _mm_add_epi64(_mm256_castsi256_si128(even), _mm256_extracti128_si256(even, 1));
  return NVM_SEARCH_WORDS - (uint32_t)(_mm_cvtsi128_si64(sum) + _mm_extract_epi64(sum, 1));
}

__attribute__((target("avx512f,popcnt"), no_sanitize("thread"))) static uint32_t count_le16_avx512(
    const uint64_t *words, uint64_t key) {
  const __m512i k = _mm512_set1_epi64((long long)key);
  __mmask8 low = _mm512_cmple_epu64_mask(_mm512_loadu_si512(words), k);
  __mmask8 high = _mm512_cmple_epu64_mask(_mm512_loadu_si512(words + 8), k);
  return (uint32_t)__builtin_popcount((uint32_t)low | (uint32_t)high << 8);
}

__attribute__((target("avx512f"), no_sanitize("thread"))) static uint32_t count_le_avx512(
    const uint64_t *words, uint64_t key) {
  const __m512i k = _mm512_set1_epi64((long long)key);
  const __m512i one = _mm512_set1_epi64(1);
  __m512i sum = _mm512_setzero_si512();
#pragma clang loop unroll(full)
  for (uint32_t i = 0; i < NVM_SEARCH_WORDS; i += 8) {
    __mmask8 le = _mm512_cmple_epu64_mask(_mm512_loadu_si512(words + i), k);
    sum = _mm512_mask_add_epi64(sum, le, sum, one);
  }
  return (uint32_t)_mm512_reduce_add_epi64(sum);
}

static enum { PORTABLE, AVX2, AVX512 } best;
__attribute__((constructor)) static void nvm_prepare_search(void) {
  __builtin_cpu_init();  // this runs in a constructor
  best = __builtin_cpu_supports("avx512f") ? AVX512 : __builtin_cpu_supports("avx2") ? AVX2 : PORTABLE;
}

uint32_t nvm_count_le(const uint64_t *words, uint64_t key) {
  if (best == AVX512) return count_le_avx512(words, key);
  if (best == AVX2) return count_le_avx2(words, key);
  return count_le_portable(words, NVM_SEARCH_WORDS, key);
}
uint32_t nvm_count_le16(const uint64_t *words, uint64_t key) {
  return best == AVX512 ? count_le16_avx512(words, key) : count_le_portable(words, 16, key);
}
#else
uint32_t nvm_count_le(const uint64_t *words, uint64_t key) {
  return count_le_portable(words, NVM_SEARCH_WORDS, key);
}
uint32_t nvm_count_le16(const uint64_t *words, uint64_t key) { return count_le_portable(words, 16, key); }
#endif
