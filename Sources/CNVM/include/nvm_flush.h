// Cache-line write-back and store fences.
//
// The instruction is chosen once at start-up. libpmem does the same behind a function call; the
// inline form lets the compiler keep the hot path in registers. The memory clobber is needed: without
// it the compiler may move another store to the same line behind the write-back.
#ifndef NVM_FLUSH_H
#define NVM_FLUSH_H

#include <stddef.h>
#include <stdint.h>

enum nvm_flush_kind {
  NVM_FLUSH_CLFLUSH = 0,
  NVM_FLUSH_CLFLUSHOPT = 1,
  NVM_FLUSH_CLWB = 2,
  NVM_FLUSH_DC_CVAC = 3,
  NVM_FLUSH_DC_CVAP = 4,
};

#define NVM_LINE 64

extern int nvm_flush_kind_detected;

// Which write-back instruction this processor is driven with (enum nvm_flush_kind).
static inline int nvm_flush_instruction(void) { return nvm_flush_kind_detected; }

static inline void nvm_flush_line(void *p) {
#if defined(__x86_64__)
  if (__builtin_expect(nvm_flush_kind_detected == NVM_FLUSH_CLWB, 1)) {
    __asm__ volatile(".byte 0x66; xsaveopt %0" : "+m"(*(volatile char *)p)::"memory");  // clwb
  } else if (nvm_flush_kind_detected == NVM_FLUSH_CLFLUSHOPT) {
    __asm__ volatile(".byte 0x66; clflush %0" : "+m"(*(volatile char *)p)::"memory");  // clflushopt
  } else {
    __asm__ volatile("clflush %0" : "+m"(*(volatile char *)p)::"memory");
  }
#elif defined(__aarch64__)
  if (nvm_flush_kind_detected == NVM_FLUSH_DC_CVAP) {
    __asm__ volatile("sys #3, c7, c12, #1, %0" ::"r"(p) : "memory");  // dc cvap
  } else {
    __asm__ volatile("dc cvac, %0" ::"r"(p) : "memory");
  }
#else
  (void)p;
#endif
}

// Starts the write-back of every line that [p, p + n) touches. n may be 0.
static inline void nvm_flush_range(void *p, size_t n) {
  if (n == 0) return;
  uintptr_t a = (uintptr_t)p & ~(uintptr_t)(NVM_LINE - 1);
  uintptr_t end = (uintptr_t)p + n;
  for (; a < end; a += NVM_LINE) nvm_flush_line((void *)a);
}

// Waits until the write-backs and non-temporal stores of this core are accepted by the medium.
static inline void nvm_store_fence(void) {
#if defined(__x86_64__)
  __asm__ volatile("sfence" ::: "memory");
#elif defined(__aarch64__)
  // The whole system, not only the inner shareable domain: the point of persistence may lie beyond it.
  __asm__ volatile("dsb sy" ::: "memory");
#else
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

// One aligned word past the cache. Weakly ordered: needs nvm_store_fence. A compiler or processor
// never tears it.
static inline void nvm_store_nontemporal(void *p, uint64_t v) {
#if defined(__x86_64__)
  __asm__ volatile("movnti %1, %0" : "=m"(*(volatile uint64_t *)p) : "r"(v) : "memory");
#else
  __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELEASE);
  nvm_flush_line(p);
#endif
}

#endif
