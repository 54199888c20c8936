#include "nvm_slots.h"

#include "nvm_atomic.h"

// rank[i] := the place of words[i] in a stable sort: how many of words[0 ..< n] are less, plus how many equal ones stand
// before it. Both arrays have room for NVM_SLOTS_MAX elements.
typedef void rank_function(const uint64_t *words, int n, uint8_t *rank);

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

// The same, eight words at a time.
__attribute__((target("avx512f"))) static void rank_avx512(const uint64_t *words, int n, uint8_t *rank) {
  const __m512i one = _mm512_set1_epi64(1);
  for (int i = 0; i < n; i += 8) {
    __m512i mine = _mm512_loadu_si512(words + i);
    __m512i below = _mm512_setzero_si512();
    int j = 0;
    for (; j < i; j++) {
      __mmask8 le = _mm512_cmple_epu64_mask(_mm512_set1_epi64((long long)words[j]), mine);
      below = _mm512_mask_add_epi64(below, le, below, one);
    }
    int end = i + 8 < n ? i + 8 : n;
    for (; j < end; j++) {
      __m512i other = _mm512_set1_epi64((long long)words[j]);
      __mmask8 behind = (__mmask8)(0xFE << (j - i));
      __mmask8 less = _mm512_cmplt_epu64_mask(other, mine) | (_mm512_cmpeq_epu64_mask(other, mine) & behind);
      below = _mm512_mask_add_epi64(below, less, below, one);
    }
    for (; j < n; j++) {
      __mmask8 lt = _mm512_cmplt_epu64_mask(_mm512_set1_epi64((long long)words[j]), mine);
      below = _mm512_mask_add_epi64(below, lt, below, one);
    }
    _mm_storel_epi64((__m128i *)(rank + i), _mm512_cvtepi64_epi8(below));
  }
}

static rank_function *best = rank_portable;
__attribute__((constructor)) static void nvm_choose_rank(void) {
  __builtin_cpu_init();  // this runs in a constructor
  if (__builtin_cpu_supports("avx512f")) best = rank_avx512;
  else if (__builtin_cpu_supports("avx2")) best = rank_avx2;
}
#else
static rank_function *const best = rank_portable;
#endif

int nvm_slot_order(const void *slots, uint32_t set, uint8_t *order) {
  uint64_t heads[NVM_SLOTS_MAX];
  uint8_t rank[NVM_SLOTS_MAX];
  uint8_t slot[NVM_SLOTS_MAX];
  int n = 0;
  for (; set; set &= set - 1) {
    slot[n] = (uint8_t)__builtin_ctz(set);
    heads[n] = nvm_load_relaxed((const char *)slots + 16 * slot[n]);
    n++;
  }
  best(heads, n, rank);
  for (int k = 0; k < n; k++) order[rank[k]] = slot[k];
  return n;
}

static int sort_slots_by_rank(const char *slots, uint32_t set, uint64_t *pairs) {
  uint64_t heads[NVM_SLOTS_MAX];
  uint64_t words[NVM_SLOTS_MAX];
  uint8_t rank[NVM_SLOTS_MAX];
  int n = 0;
  for (; set; set &= set - 1) {
    const char *slot = slots + 16 * __builtin_ctz(set);
    heads[n] = nvm_load_relaxed(slot);
    words[n] = nvm_load_relaxed(slot + 8);
    n++;
  }
  best(heads, n, rank);
  for (int k = 0; k < n; k++) {
    uint64_t *pair = pairs + 2 * rank[k];
    pair[0] = heads[k];
    pair[1] = words[k];
  }
  return n;
}

#if defined(__x86_64__)
#define WIDE __attribute__((target("avx512f,bmi,popcnt"), no_sanitize("thread")))

// rank[i] := how many of words[0 ..< n] are less than words[i], for `vectors` times eight of them; words[n] is all ones.
// What is compared with all of them is broadcast by its load, which costs no shuffle. Between the comparisons the bytes
// ahead are asked for.
WIDE __attribute__((always_inline)) static inline void count_less(const uint64_t *words, int n, uint64_t *rank,
                                                                  int vectors, const char *ahead) {
  const __m512i one = _mm512_set1_epi64(1);
  __m512i mine[4], below[4];
  for (int v = 0; v < vectors; v++) {
    mine[v] = _mm512_loadu_si512(words + 8 * v);
    below[v] = _mm512_setzero_si512();
  }
  const char *line = ahead, *const end = ahead + NVM_SLOTS_AHEAD;
  for (int j = 0; j < n; j += 2) {
    __m512i a, b;
    __asm__("vpbroadcastq %1, %0" : "=v"(a) : "m"(words[j]));
    __asm__("vpbroadcastq %1, %0" : "=v"(b) : "m"(words[j + 1]));
    for (int v = 0; v < vectors; v++) {
      below[v] = _mm512_mask_add_epi64(below[v], _mm512_cmplt_epu64_mask(a, mine[v]), below[v], one);
      below[v] = _mm512_mask_add_epi64(below[v], _mm512_cmplt_epu64_mask(b, mine[v]), below[v], one);
    }
    if (line == end) continue;
    nvm_prefetch(line);
    line += 64;
  }
  for (; line != end; line += 64) nvm_prefetch(line);
  for (int v = 0; v < vectors; v++) _mm512_storeu_si512(rank + 8 * v, below[v]);
}

// The heads of the set, packed, get their ranks, and the pairs move in one piece each. Says where the heads begin to
// differ.
WIDE __attribute__((noinline)) static int sort_slots_whole(const char *slots, uint32_t set, uint64_t *pairs,
                                                           const char *ahead, unsigned *window) {
  const __m512i even = _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0);
  uint64_t heads[NVM_SLOTS_MAX + 8];
  uint64_t rank[NVM_SLOTS_MAX];
  const int n = __builtin_popcount(set);
  int at = 0;
  for (int i = 0; i < 4; i++) {
    const __m512i low = _mm512_loadu_si512(slots + 128 * i);
    const __m512i high = i < 3 ? _mm512_loadu_si512(slots + 128 * i + 64) : low;
    const __mmask8 here = (__mmask8)(set >> 8 * i);
    _mm512_storeu_si512(heads + at, _mm512_maskz_compress_epi64(here, _mm512_permutex2var_epi64(low, even, high)));
    at += __builtin_popcount(here);
  }
  heads[n] = UINT64_MAX;
  if (n <= 16) count_less(heads, n, rank, 2, ahead);
  else if (n <= 24) count_less(heads, n, rank, 3, ahead);
  else count_less(heads, n, rank, 4, ahead);
  uint32_t places = 0;
  uint32_t rest = set;
  for (int k = 0; k < n; k++, rest &= rest - 1) {
    const __m128i pair = _mm_loadu_si128((const __m128i *)(slots + 16 * __builtin_ctz(rest)));
    _mm_storeu_si128((__m128i *)(pairs + 2 * rank[k]), pair);
    places |= 1u << rank[k];
  }
  uint64_t differing = 0;
  for (int k = 1; k < n; k++) differing |= heads[k] ^ heads[0];
  *window = differing >> 32 ? (71 - (unsigned)__builtin_clzll(differing)) / 8 - 4 : 0;
  // Equal heads claim one place.
  return places == (uint32_t)((1ull << n) - 1) ? n : sort_slots_by_rank(slots, set, pairs);
}

// The bytes [window, window + 4) of the heads in eight slots.
WIDE __attribute__((always_inline)) static inline __m512i eight_parts(__m512i a, __m512i b, unsigned window,
                                                                      __m512i *upper) {
  const __m512i odd = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 29, 25, 21, 17, 13, 9, 5, 1);
  const __m512i even = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 28, 24, 20, 16, 12, 8, 4, 0);
  *upper = _mm512_permutex2var_epi32(a, odd, b);
  if (window == NVM_WINDOW_TOP) return *upper;
  const __m512i lower = _mm512_permutex2var_epi32(a, even, b);
  return _mm512_or_si512(_mm512_srl_epi32(lower, _mm_cvtsi32_si128(8 * (int)window)),
                         _mm512_sll_epi32(*upper, _mm_cvtsi32_si128(32 - 8 * (int)window)));
}
WIDE __attribute__((always_inline)) static inline __m512i both(__m512i low, __m512i high) {
  return _mm512_inserti64x4(low, _mm512_castsi512_si256(high), 1);
}

// Counts two wherever the part of the first slot in `rest` is less.
WIDE __attribute__((always_inline)) static inline void count_less_parts(const char *parts, uint32_t rest, __m512i low,
                                                                        __m512i high, __m512i *below_low,
                                                                        __m512i *below_high) {
  const __m512i two = _mm512_set1_epi32(2);
  __m512i other;
  __asm__("vpbroadcastd %1, %0" : "=v"(other) : "m"(*(const uint32_t *)(parts + 16 * __builtin_ctz(rest))));
  *below_low = _mm512_mask_add_epi32(*below_low, _mm512_cmplt_epu32_mask(other, low), *below_low, two);
  *below_high = _mm512_mask_add_epi32(*below_high, _mm512_cmplt_epu32_mask(other, high), *below_high, two);
}

// For so many slots at least: a line ahead is asked for with each.
#define NVM_PART_LEAST (NVM_SLOTS_AHEAD / 64)

// By four bytes of each head, twice as many at a time, and without packing them; -1 where those do not decide. Ranks are
// counted in words of `pairs`.
WIDE __attribute__((always_inline)) static inline int sort_slots_by_part(const char *slots, uint32_t set,
                                                                         uint64_t *pairs, const char *ahead,
                                                                         unsigned window) {
  const __mmask16 low_set = (__mmask16)set, high_set = (__mmask16)(set >> 16);
  __m512i part[4], upper[4];
  for (int i = 0; i < 4; i++) {
    const __m512i a = _mm512_loadu_si512(slots + 128 * i);
    part[i] = eight_parts(a, i < 3 ? _mm512_loadu_si512(slots + 128 * i + 64) : a, window, &upper[i]);
  }
  if (window < NVM_WINDOW_TOP) {
    // What is above the part must be the same in all.
    const __m512i above = _mm512_set1_epi32((int)(0xFFFFFFFFu << 8 * window));
    const __m512i first = _mm512_set1_epi32(*(const int *)(slots + 16 * __builtin_ctz(set) + 4));
    const __m512i low = _mm512_xor_si512(both(upper[0], upper[1]), first);
    const __m512i high = _mm512_xor_si512(both(upper[2], upper[3]), first);
    if (_mm512_mask_test_epi32_mask(low_set, low, above) |
        _mm512_mask_test_epi32_mask(high_set, high, above)) return -1;
  }
  const __m512i low = both(part[0], part[1]), high = both(part[2], part[3]);
  __m512i below_low = _mm512_setzero_si512(), below_high = below_low;
  const int n = __builtin_popcount(set);
  uint32_t rest = set;
#pragma clang loop unroll(full)
  for (int i = 0; i < NVM_PART_LEAST; i++, rest &= rest - 1) {
    count_less_parts(slots + window, rest, low, high, &below_low, &below_high);
    nvm_prefetch(ahead + 64 * i);
  }
  for (; rest; rest &= rest - 1) count_less_parts(slots + window, rest, low, high, &below_low, &below_high);
  // Each pair of heads is counted once, but for equal ones.
  const __m512i sum = _mm512_mask_add_epi32(_mm512_maskz_mov_epi32(low_set, below_low), high_set,
                                            _mm512_maskz_mov_epi32(low_set, below_low), below_high);
  if (_mm512_reduce_add_epi32(sum) != n * (n - 1)) return -1;
  uint32_t rank[NVM_SLOTS_MAX] __attribute__((aligned(64)));  // A store over two lines is slow to read from.
  _mm512_storeu_si512(rank, below_low);
  _mm512_storeu_si512(rank + 16, below_high);
  for (rest = set; rest; rest &= rest - 1) {
    const int i = __builtin_ctz(rest);
    const __m128i pair = _mm_loadu_si128((const __m128i *)(slots + 16 * i));
    _mm_storeu_si128((__m128i *)(pairs + rank[i]), pair);
  }
  return n;
}

WIDE __attribute__((noinline, aligned(64))) static int sort_slots_by_top(const char *slots, uint32_t set,
                                                                         uint64_t *pairs, const char *ahead) {
  return sort_slots_by_part(slots, set, pairs, ahead, NVM_WINDOW_TOP);
}

// Of many leaves a few do not differ in the topmost bytes, or in those that all others differ in: one alone neither moves
// the window away nor gives it up.
#define NVM_WINDOW_FAILED 0x100

WIDE static int sort_slots_wide(const char *slots, uint32_t set, uint64_t *pairs, const char *ahead,
                                unsigned *window) {
  const unsigned state = *window, at = state & ~NVM_WINDOW_FAILED;
  unsigned better;
  if (at > NVM_WINDOW_TOP || __builtin_popcount(set) < NVM_PART_LEAST) {
    if (at > NVM_WINDOW_TOP) *window = at - 1;
    return sort_slots_whole(slots, set, pairs, ahead, &better);
  }
  const int n = at == NVM_WINDOW_TOP ? sort_slots_by_top(slots, set, pairs, ahead)
                                     : sort_slots_by_part(slots, set, pairs, ahead, at);
  if (n >= 0) {
    if (state != at) *window = at;
    return n;
  }
  const int whole = sort_slots_whole(slots, set, pairs, ahead, &better);
  const int stays = at == NVM_WINDOW_TOP || better == at;
  *window = stays && state == at ? at | NVM_WINDOW_FAILED : better == at ? NVM_WINDOW_NONE : better;
  return whole;
}
#endif

int nvm_sort_slots(const void *slots, uint32_t set, uint64_t *pairs, const void *ahead, unsigned *window) {
#if defined(__x86_64__)
  if (best == rank_avx512) return sort_slots_wide((const char *)slots, set, pairs, (const char *)ahead, window);
#endif
  for (int i = 0; i < NVM_SLOTS_AHEAD; i += 64) nvm_prefetch((const char *)ahead + i);
  return sort_slots_by_rank((const char *)slots, set, pairs);
}
