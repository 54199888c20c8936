// Fingerprint match: which of up to 32 bytes equal one byte, as a bit mask.
#ifndef NVM_MATCH_H
#define NVM_MATCH_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

// Bit i of the result says p[i] == byte, for i < 32. Reads 32 bytes from p (unaligned is fine). A
// concurrent writer may change them meanwhile: callers validate a version afterwards.
__attribute__((no_sanitize("thread"))) static inline uint32_t nvm_match32(const void *p, uint8_t byte) {
#if defined(__x86_64__)
  __m128i needle = _mm_set1_epi8((char)byte);
  __m128i lo = _mm_loadu_si128((const __m128i *)p);
  __m128i hi = _mm_loadu_si128((const __m128i *)((const char *)p + 16));
  uint32_t a = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(lo, needle));
  uint32_t b = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(hi, needle));
  return a | (b << 16);
#else
  uint32_t mask = 0;
  const uint8_t *q = (const uint8_t *)p;
  for (int i = 0; i < 32; i++) mask |= (uint32_t)(__atomic_load_n(q + i, __ATOMIC_RELAXED) == byte) << i;
  return mask;
#endif
}

#endif
