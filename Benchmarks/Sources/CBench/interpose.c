#define _GNU_SOURCE
#include "CBench.h"

#include <dlfcn.h>
#include <libpmem.h>
#include <stdlib.h>
#include <sys/mman.h>

// libpmemobj calls libpmem through dynamic symbols. The functions here have the same names and are exported by
// the executable, so they come first: they count when asked to, and pass on.

static int counting;
static _Thread_local bench_pmem_counts mine;
// libpmem calls its own functions through the same symbols: only the outermost call counts.
static _Thread_local int depth;

// A count for each line of 512 GiB of addresses; only touched pages take memory.
static uint32_t *watched;
static const uint64_t watched_mask = (1ull << 33) - 1;
static uint64_t watched_first, watched_last;

void bench_pmem_watch_lines(int on) {
  if (watched) munmap(watched, (watched_mask + 1) * 4);
  watched = NULL;
  watched_first = watched_mask;
  watched_last = 0;
  if (!on) return;
  void *p = mmap(NULL, (watched_mask + 1) * 4, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p != MAP_FAILED) watched = p;
}
static void watch(const void *p, size_t n) {
  if (!watched || depth > 0 || n == 0) return;
  for (uint64_t line = (uintptr_t)p >> 6; line <= ((uintptr_t)p + n - 1) >> 6; line++) {
    uint64_t i = line & watched_mask;
    watched[i]++;
    if (i < watched_first) watched_first = i;
    if (i > watched_last) watched_last = i;
  }
}
bench_pmem_line_counts bench_pmem_lines(void) {
  bench_pmem_line_counts r = {0, 0, 0, 0};
  if (!watched) return r;
  for (uint64_t i = watched_first; i <= watched_last; i++) {
    double n = watched[i];
    if (n == 0) continue;
    r.lines++;
    r.total += n;
    r.squares += n * n;
    if (n > r.maximum) r.maximum = n;
  }
  return r;
}

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
  watch(p, n);
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
  watch(p, n);
  depth++;
  real(p, n);
  depth--;
}
static void copied(const void *p, size_t n, unsigned flags) {
  add((flags & (PMEM_F_MEM_NODRAIN | PMEM_F_MEM_NOFLUSH)) == 0,
      flags & PMEM_F_MEM_NOFLUSH ? 0 : lines_of(p, n), n);
  if (!(flags & PMEM_F_MEM_NOFLUSH)) watch(p, n);
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
