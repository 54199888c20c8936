// Atomic access to words in mapped memory. The __atomic builtins are seen by the thread sanitizer,
// and an aligned 8-byte atomic store is never torn by the compiler or the processor: every commit
// word is written by one of these.
#ifndef NVM_ATOMIC_H
#define NVM_ATOMIC_H

#include <stdbool.h>
#include <stdint.h>

static inline uint64_t nvm_load_relaxed(const void *p) {
  return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED);
}
static inline uint64_t nvm_load_acquire(const void *p) {
  return __atomic_load_n((const uint64_t *)p, __ATOMIC_ACQUIRE);
}
static inline void nvm_store_relaxed(void *p, uint64_t v) {
  __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELAXED);
}
static inline void nvm_store_release(void *p, uint64_t v) {
  __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELEASE);
}
static inline void nvm_store_seqcst(void *p, uint64_t v) {
  __atomic_store_n((uint64_t *)p, v, __ATOMIC_SEQ_CST);
}
static inline uint64_t nvm_load_seqcst(const void *p) {
  return __atomic_load_n((const uint64_t *)p, __ATOMIC_SEQ_CST);
}
static inline uint64_t nvm_fetch_add_seqcst(void *p, uint64_t v) {
  return __atomic_fetch_add((uint64_t *)p, v, __ATOMIC_SEQ_CST);
}
static inline uint64_t nvm_exchange_acqrel(void *p, uint64_t v) {
  return __atomic_exchange_n((uint64_t *)p, v, __ATOMIC_ACQ_REL);
}
static inline uint64_t nvm_fetch_add_relaxed(void *p, uint64_t v) {
  return __atomic_fetch_add((uint64_t *)p, v, __ATOMIC_RELAXED);
}
static inline uint64_t nvm_fetch_add_acqrel(void *p, uint64_t v) {
  return __atomic_fetch_add((uint64_t *)p, v, __ATOMIC_ACQ_REL);
}
// Returns whether *p was `expected` and is now `desired`.
static inline bool nvm_compare_exchange(void *p, uint64_t expected, uint64_t desired) {
  return __atomic_compare_exchange_n((uint64_t *)p, &expected, desired, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_ACQUIRE);
}
static inline uint16_t nvm_load16_relaxed(const void *p) {
  return __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED);
}
static inline void nvm_store16_release(void *p, uint16_t v) {
  __atomic_store_n((uint16_t *)p, v, __ATOMIC_RELEASE);
}
static inline uint32_t nvm_load32_relaxed(const void *p) {
  return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED);
}
static inline void nvm_store32_relaxed(void *p, uint32_t v) {
  __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELAXED);
}
// Copies words of mapped memory, each as a whole, to a place that need not be aligned. Other threads may be storing
// to them: each word is one that was there.
__attribute__((no_sanitize("thread"))) static inline void nvm_capture_words(void *to, const void *from,
                                                                            uint64_t words) {
  const volatile uint64_t *p = (const volatile uint64_t *)from;
  char *q = (char *)to;
  for (uint64_t i = 0; i < words; i++) {
    uint64_t w = p[i];
    __builtin_memcpy(q + 8 * i, &w, 8);
  }
}
// Keeps the compiler from moving accesses across; the other half is nvm_barrier_of_all_threads.
static inline void nvm_compiler_fence(void) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }
static inline void nvm_acquire_fence(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void nvm_seqcst_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

static inline void nvm_pause(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}
static inline void nvm_prefetch(const void *p) { __builtin_prefetch(p, 0, 3); }
static inline void nvm_prefetch_write(const void *p) { __builtin_prefetch(p, 1, 3); }

#endif
