#include "CBench.h"

#include <libpmem.h>
#include <stdio.h>

void bench_buffer_lines(void) { setvbuf(stdout, NULL, _IOLBF, 0); }

void bench_pmem_persist(void *line, uint64_t word) {
  *(volatile uint64_t *)line = word;
  pmem_persist(line, 8);
}
void bench_pmem_copy(void *to, const void *from, size_t count) { pmem_memcpy_persist(to, from, count); }

void bench_empty_call(void) { __asm__ volatile("" ::: "memory"); }

#if defined(__x86_64__)
#include <cpuid.h>
void bench_fence(void) { __asm__ volatile("sfence" ::: "memory"); }
int bench_has_clwb(void) {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 24 & 1);
}
void bench_persist_clwb(void *line, uint64_t word) {
  *(volatile uint64_t *)line = word;
  __asm__ volatile("clwb %0" : "+m"(*(volatile char *)line)::"memory");
  __asm__ volatile("sfence" ::: "memory");
}
void bench_persist_nt(void *line, uint64_t word) {
  __asm__ volatile("movnti %1, %0" : "=m"(*(volatile uint64_t *)line) : "r"(word) : "memory");
  __asm__ volatile("sfence" ::: "memory");
}
#else
void bench_fence(void) { __asm__ volatile("dsb ish" ::: "memory"); }
int bench_has_clwb(void) { return 0; }
void bench_persist_clwb(void *line, uint64_t word) {
  *(volatile uint64_t *)line = word;
  __asm__ volatile("dc cvac, %0\n dsb ish" ::"r"(line) : "memory");
}
void bench_persist_nt(void *line, uint64_t word) { bench_persist_clwb(line, word); }
#endif
