#include "nvm_hash.h"

#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>

__attribute__((target("sse4.2"))) static uint32_t crc_hw(uint32_t crc, const unsigned char *p, size_t n) {
  uint64_t c = crc;
  while (n >= 8) {
    uint64_t w;
    memcpy(&w, p, 8);
    c = _mm_crc32_u64(c, w);
    p += 8;
    n -= 8;
  }
  uint32_t c32 = (uint32_t)c;
  while (n--) c32 = _mm_crc32_u8(c32, *p++);
  return c32;
}
static int have_hw(void) {
  __builtin_cpu_init();  // this runs in a constructor
  return __builtin_cpu_supports("sse4.2");
}
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

__attribute__((target("crc"))) static uint32_t crc_hw(uint32_t crc, const unsigned char *p, size_t n) {
  while (n >= 8) {
    uint64_t w;
    memcpy(&w, p, 8);
    crc = __builtin_arm_crc32cd(crc, w);
    p += 8;
    n -= 8;
  }
  while (n--) crc = __builtin_arm_crc32cb(crc, *p++);
  return crc;
}
static int have_hw(void) { return (getauxval(AT_HWCAP) & (1ul << 7)) != 0; }  // HWCAP_CRC32
#else
static uint32_t crc_hw(uint32_t crc, const unsigned char *p, size_t n) {
  (void)p;
  (void)n;
  return crc;
}
static int have_hw(void) { return 0; }
#endif

static uint32_t table[256];
static int use_hw;

__attribute__((constructor)) static void nvm_prepare_crc(void) {
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t c = i;
    for (int k = 0; k < 8; k++) c = (c & 1) ? (c >> 1) ^ 0x82F63B78u : c >> 1;
    table[i] = c;
  }
  use_hw = have_hw();
}

uint32_t nvm_crc32c(uint32_t seed, const void *bytes, size_t n) {
  const unsigned char *p = bytes;
  uint32_t crc = ~seed;
  if (use_hw) return ~crc_hw(crc, p, n);
  while (n--) crc = table[(crc ^ *p++) & 0xFF] ^ (crc >> 8);
  return ~crc;
}

uint64_t nvm_hash_bytes(uint64_t seed, const void *bytes, size_t n) {
  const unsigned char *p = bytes;
  uint64_t h = seed ^ nvm_mum(n ^ 0x2D358DCCAA6C78A5ull, 0x8BB84B93962EACC9ull);
  while (n >= 16) {
    uint64_t a, b;
    memcpy(&a, p, 8);
    memcpy(&b, p + 8, 8);
    h = nvm_mix2(h, a, b);
    p += 16;
    n -= 16;
  }
  unsigned char tail[16] = {0};
  if (n) memcpy(tail, p, n);
  uint64_t a, b;
  memcpy(&a, tail, 8);
  memcpy(&b, tail + 8, 8);
  h = nvm_mix2(h, a, b);
  return nvm_mum(h ^ 0x4B33A62ED433D4A3ull, 0x4D5A2DA51DE1AA47ull);
}
