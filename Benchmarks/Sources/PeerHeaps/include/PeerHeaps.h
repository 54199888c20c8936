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
#ifdef __cplusplus
}
#endif
#endif
