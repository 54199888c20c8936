#ifndef PEER_HEAPS_H
#define PEER_HEAPS_H
#include "CBench.h"
#ifdef __cplusplus
extern "C" {
#endif
// Volatile.
const bench_heap *bench_heap_glibc(void);
const bench_heap *bench_heap_jemalloc(void);
const bench_heap *bench_heap_mimalloc(void);
// What a durable allocator could do at best: one header line read and made durable per call.
const bench_heap *bench_heap_ideal_clwb(void);
const bench_heap *bench_heap_ideal_nt(void);
// libpmemobj: the atomic interface into volatile and into persistent links; reserve and publish.
const bench_heap *bench_heap_pmemobj_atomic(void);
const bench_heap *bench_heap_pmemobj_place(void);
const bench_heap *bench_heap_pmemobj_publish(void);

// Opening a pool again: fills one with `n` objects and leaves it open, or opens one up to its first allocation and
// checks the object in the middle. 0 on failure.
int bench_pmemobj_fill(const char *path, size_t n, int closes);
int bench_pmemobj_open(const char *path);
#ifdef __cplusplus
}
#endif
#endif
