#define _GNU_SOURCE
#include "CBench.h"

#include <dlfcn.h>
#include <libpmem.h>
#include <stdlib.h>

// libpmemobj calls libpmem through dynamic symbols. The functions here have the same names and are exported by
// the executable, so they come first: they count when asked to, and pass on.

static int counting;
static _Thread_local bench_pmem_counts mine;
// libpmem calls its own functions through the same symbols: only the outermost call counts.
static _Thread_local int depth;

static void add(uint64_t fences, uint64_t lines, uint64_t bytes) {
  if (depth > 0) return;
  mine.fences += fences;
  mine.lines += lines;
  mine.bytes += bytes;
}
static uint64_t lines_of(const void *p, size_t n) {
  return n == 0 ? 0 : (((uintptr_t)p + n - 1) >> 6) - ((uintptr_t)p >> 6) + 1;
}
bench_pmem_counts bench_pmem_counters(void) { return mine; }
void bench_pmem_count(int on) { __atomic_store_n(&counting, on, __ATOMIC_RELAXED); }

#define REAL(type, name, ...)                             \
  static type (*real)(__VA_ARGS__);                       \
  if (__builtin_expect(!real, 0)) {                       \
    real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name); \
    if (!real) abort();                                   \
  }
#define IS_OFF __builtin_expect(!__atomic_load_n(&counting, __ATOMIC_RELAXED), 1)

void pmem_flush(const void *p, size_t n) {
  REAL(void, pmem_flush, const void *, size_t)
  if (IS_OFF) {
    real(p, n);
    return;
  }
  add(0, lines_of(p, n), 0);
  depth++;
  real(p, n);
  depth--;
}
void pmem_drain(void) {
  REAL(void, pmem_drain, void)
  if (IS_OFF) {
    real();
    return;
  }
  add(1, 0, 0);
  depth++;
  real();
  depth--;
}
void pmem_persist(const void *p, size_t n) {
  REAL(void, pmem_persist, const void *, size_t)
  if (IS_OFF) {
    real(p, n);
    return;
  }
  add(1, lines_of(p, n), 0);
  depth++;
  real(p, n);
  depth--;
}
static void copied(const void *p, size_t n, unsigned flags) {
  add((flags & (PMEM_F_MEM_NODRAIN | PMEM_F_MEM_NOFLUSH)) == 0,
      flags & PMEM_F_MEM_NOFLUSH ? 0 : lines_of(p, n), n);
}
void *pmem_memcpy(void *p, const void *from, size_t n, unsigned flags) {
  REAL(void *, pmem_memcpy, void *, const void *, size_t, unsigned)
  if (IS_OFF) return real(p, from, n, flags);
  copied(p, n, flags);
  depth++;
  void *result = real(p, from, n, flags);
  depth--;
  return result;
}
void *pmem_memmove(void *p, const void *from, size_t n, unsigned flags) {
  REAL(void *, pmem_memmove, void *, const void *, size_t, unsigned)
  if (IS_OFF) return real(p, from, n, flags);
  copied(p, n, flags);
  depth++;
  void *result = real(p, from, n, flags);
  depth--;
  return result;
}
void *pmem_memset(void *p, int c, size_t n, unsigned flags) {
  REAL(void *, pmem_memset, void *, int, size_t, unsigned)
  if (IS_OFF) return real(p, c, n, flags);
  copied(p, n, flags);
  depth++;
  void *result = real(p, c, n, flags);
  depth--;
  return result;
}
