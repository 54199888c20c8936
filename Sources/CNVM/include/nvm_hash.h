// Checks on media structures.
//
// nvm_mix*: a keyed multiply-and-fold of a few words, inline and alike on every architecture; for
// headers and slots. Each word goes through a 128-bit product with an odd constant whose halves are
// folded, so that every bit of the 64-bit result depends on every bit of the words. A change of any of them
// goes unseen with a chance of about 2^-64, after the fold to 32 bits of 2^-32.
// nvm_crc32c: CRC-32C (Castagnoli) of bytes, by the processor's instruction where it has one; for
// superblocks and records.
#ifndef NVM_HASH_H
#define NVM_HASH_H

#include <stddef.h>
#include <stdint.h>

static inline uint64_t nvm_mum(uint64_t a, uint64_t b) {
  __uint128_t r = (__uint128_t)a * b;
  return (uint64_t)r ^ (uint64_t)(r >> 64);
}

// One mixing round over two words under a seed.
static inline uint64_t nvm_mix2(uint64_t seed, uint64_t a, uint64_t b) {
  uint64_t x = nvm_mum(a ^ seed, 0x9E3779B97F4A7C15ull);
  uint64_t y = nvm_mum(b ^ (seed + 0xD6E8FEB86659FD93ull), 0xC2B2AE3D27D4EB4Full);
  return x + ((y << 29) | (y >> 35));
}

static inline uint32_t nvm_fold32(uint64_t x) {
  x = nvm_mum(x ^ 0xA0761D6478BD642Full, 0xE7037ED1A0B428DBull);
  return (uint32_t)(x ^ (x >> 32));
}

// A byte for pre-selection of slots: depends on all bits of the key's head or hash.
static inline uint8_t nvm_fingerprint(uint64_t x) {
  return (uint8_t)(nvm_mum(x ^ 0x8EBC6AF09C88C6E3ull, 0x589965CC75374CC3ull) >> 24);
}

uint32_t nvm_crc32c(uint32_t seed, const void *p, size_t n);

// 64-bit hash of bytes (for fingerprints of long keys and for digests of images); not cryptographic.
uint64_t nvm_hash_bytes(uint64_t seed, const void *p, size_t n);

#endif
