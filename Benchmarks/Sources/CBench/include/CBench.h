#ifndef CBENCH_H
#define CBENCH_H

// What the contestants share, so that they are timed and checked alike: a clock of a few nanoseconds,
// the outcome of a batch, and the interfaces that the peers' adapters fill in. Each contestant runs a whole
// batch of operations in a loop of its own language, with its calls inlined where its library allows it.

#include <stddef.h>
#include <stdint.h>
#include <time.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

/// Ticks of a clock that costs a few nanoseconds to read: the time stamp counter where there is one.
static inline uint64_t bench_ticks(void) {
#if defined(__x86_64__)
  unsigned int aux;
  return __rdtscp(&aux);
#else
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
#endif
}

static inline uint64_t bench_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/// Of the calling thread's processor time.
static inline uint64_t bench_cpu_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/// What a batch found. `wrong` counts answers that were not the right ones.
typedef struct {
  uint64_t wrong;
  uint64_t entries;   // met by scans
  uint64_t checksum;  // over everything read; the same for every contestant
} bench_outcome;

// The value of a key: a fixed part and a version below 2^32, so that every read can be checked.
#define BENCH_VERSIONS (UINT64_C(1) << 32)
static inline uint64_t bench_value(uint64_t key, uint64_t version) {
  return ((key * UINT64_C(0x9E3779B97F4A7C15)) & ~(BENCH_VERSIONS - 1)) | version;
}
static inline int bench_is_value(uint64_t key, uint64_t value) {
  return ((value ^ (key * UINT64_C(0x9E3779B97F4A7C15))) >> 32) == 0;
}

/// Operations of a batch on a tree of 8-byte keys and values.
enum {
  BENCH_LOOKUP = 0,  // must be there
  BENCH_UPDATE = 1,
  BENCH_INSERT = 2,
  BENCH_DELETE = 3,  // must be there
  BENCH_MISS = 4,    // must not be there
  BENCH_RMW = 5,     // read, then write
  BENCH_SCAN = 16,   // BENCH_SCAN + n: n entries from the key on, n in 1 ... 200
};

/// One batch. `ops` is one operation for each key, or NULL where all are `op`. `ticks` is NULL, or takes the
/// time of each operation.
typedef struct {
  const uint64_t *keys;
  const uint8_t *ops;
  size_t count;
  uint8_t op;
  /// Of the first value written; stores count it up with each operation, since writing what is there already costs
  /// some of them nothing.
  uint32_t version;
  uint32_t *ticks;
  /// Changes per commit; 0 and 1 both mean each by itself. Stores only.
  uint32_t per_commit;
} bench_batch;

typedef struct {
  const char *name;
  const char *settings;
  /// NULL on failure, with a message printed. `per_commit`: operations per transaction, where it has them.
  void *(*open)(const char *directory, size_t bytes, size_t per_commit);
  void (*close)(void *);
  void (*run)(void *, const bench_batch *, bench_outcome *);
  /// Every entry, in order.
  void (*scan_all)(void *, bench_outcome *);
} bench_tree;

// Heaps.

/// One step of a trace: size 0 frees what the slot holds, anything else allocates into it.
typedef struct {
  uint32_t slot, size;
} bench_step;

/// A ring between one producer and one consumer.
typedef struct {
  uint64_t head, pad0[7];
  uint64_t tail, pad1[7];
  uint64_t items[1024];
} bench_ring;

static inline void bench_pause(unsigned *spins) {
  if (++*spins > 200) {
    struct timespec none = {0, 1};
    nanosleep(&none, NULL);
    *spins = 0;
  }
}
static inline void bench_ring_push(bench_ring *r, uint64_t item) {
  uint64_t tail = __atomic_load_n(&r->tail, __ATOMIC_RELAXED);
  unsigned spins = 0;
  while (tail - __atomic_load_n(&r->head, __ATOMIC_ACQUIRE) == 1024) bench_pause(&spins);
  r->items[tail & 1023] = item;
  __atomic_store_n(&r->tail, tail + 1, __ATOMIC_RELEASE);
}
static inline uint64_t bench_ring_pop(bench_ring *r) {
  uint64_t head = __atomic_load_n(&r->head, __ATOMIC_RELAXED);
  unsigned spins = 0;
  while (head == __atomic_load_n(&r->tail, __ATOMIC_ACQUIRE)) bench_pause(&spins);
  uint64_t item = r->items[head & 1023];
  __atomic_store_n(&r->head, head + 1, __ATOMIC_RELEASE);
  return item;
}

typedef struct {
  const char *name;
  /// `batch`: changes published together, for those that can. NULL on failure, with a message printed.
  void *(*open)(const char *directory, size_t bytes, size_t slots, size_t batch);
  void (*close)(void *);
  /// A thread has slots of its own while it runs.
  void (*run)(void *, unsigned thread, const bench_step *, size_t, uint32_t *ticks, bench_outcome *);
  void (*produce)(void *, unsigned thread, bench_ring *, size_t size, size_t count, bench_outcome *);
  void (*consume)(void *, unsigned thread, bench_ring *, size_t count, bench_outcome *);
  /// Bytes taken from the system, as the allocator counts them.
  size_t (*footprint)(void *);
  /// Where the object of a slot lies, for counting wear.
  uint64_t (*address)(void *, uint32_t slot);
} bench_heap;

/// The first word of every object, checked when it is freed.
static inline uint64_t bench_tag(uint64_t handle) { return handle * UINT64_C(0x9E3779B97F4A7C15) | 1; }

// Stores.

/// Keys and values are either 8-byte integers (below 2^63), or byte strings made from such an integer.
enum { BENCH_WORDS = 0, BENCH_BYTES = 1 };
#define BENCH_LONG_VALUE 100
#define BENCH_LONG_KEY 64

/// A key of 16 to 64 bytes that sorts as `key` does. `to` has room for 64. Returns the length.
static inline size_t bench_long_key(uint64_t key, unsigned char *to) {
  uint64_t big = __builtin_bswap64(key);
  for (int i = 0; i < 8; i++) __builtin_memcpy(to + 8 * i, &big, 8);
  return 16 + (size_t)(key % 49);
}
static inline void bench_long_value(uint64_t key, uint64_t version, unsigned char *to) {
  uint64_t v = bench_value(key, version);
  for (int i = 0; i < 12; i++) __builtin_memcpy(to + 8 * i, &v, 8);
  __builtin_memcpy(to + 96, &v, 4);
}
/// The integer of a key; the length and first and last word are looked at.
static inline uint64_t bench_key_of(const unsigned char *bytes, size_t n, uint64_t *wrong) {
  uint64_t a, b;
  __builtin_memcpy(&a, bytes, 8);
  a = __builtin_bswap64(a);
  __builtin_memcpy(&b, bytes + 8, 8);
  if (n != 16 + (size_t)(a % 49) || __builtin_bswap64(b) != a) (*wrong)++;
  return a;
}
static inline uint64_t bench_value_of(const unsigned char *bytes, size_t n, uint64_t *wrong) {
  uint64_t a, b;
  __builtin_memcpy(&a, bytes, 8);
  __builtin_memcpy(&b, bytes + 88, 8);
  if (n != BENCH_LONG_VALUE || a != b) (*wrong)++;
  return a;
}

typedef struct {
  const char *name;
  /// Opens or creates; NULL on failure, with a message printed.
  void *(*open)(const char *directory, int kind);
  void (*close)(void *);
  /// For one thread.
  void *(*session)(void *);
  void (*end_session)(void *);
  void (*run)(void *session, const bench_batch *, bench_outcome *);
  void (*scan_all)(void *session, bench_outcome *);
} bench_store;

// Counters of the calls of libpmem that libpmemobj makes; see interpose.c.
typedef struct {
  uint64_t fences, lines, bytes;
} bench_pmem_counts;
/// Of the calling thread.
bench_pmem_counts bench_pmem_counters(void);
/// Switches counting on or off. Off, a call costs a jump more; on, about 15 ns, so nothing is timed then.
void bench_pmem_count(int on);

/// How often each 64-byte line was flushed, by the calls of libpmem of all threads, from `bench_pmem_watch_lines(1)` on.
typedef struct {
  double lines, total, maximum, squares;
} bench_pmem_line_counts;
void bench_pmem_watch_lines(int on);
bench_pmem_line_counts bench_pmem_lines(void);

/// Output appears line by line, whatever it goes to.
void bench_buffer_lines(void);

/// A call that does nothing, across the language border: what a call per batch costs at most.
void bench_empty_call(void);

/// The persists that any contestant pays for, on memory at `line`.
void bench_persist_clwb(void *line, uint64_t word);
void bench_persist_nt(void *line, uint64_t word);
int bench_has_clwb(void);
void bench_fence(void);
/// The same by libpmem.
void bench_pmem_persist(void *line, uint64_t word);
void bench_pmem_copy(void *to, const void *from, size_t count);

/// Catches stray writes that were stopped: call it before the first protected region is opened.
void bench_prepare_strays(void);
/// Stores to a byte without changing it. Whether the store was stopped.
int bench_stray(void *p);

#ifdef __cplusplus
}
#endif
#endif
