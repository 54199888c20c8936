// Stray-write protection of a mapping: pages are read-only but where somebody has asked to write.
//
// The mapping is cut into granules. A store is announced by its thread for as long as it takes; an explicit window on
// granules, counted, lasts until it is taken back. Three ways to enforce it:
//
//   immediate  pages change by mprotect before a thread's first store to a granule and at its next fence
//   deferred   pages are opened by the handler when a store faults that was announced or has a window, and closed in
//              batches: by a thread, each interval, where nobody has stored since the batch before
//   keys       one protection key for the mapping, that the storing thread lifts for itself, without a system call
//
// The queue of the deferred way is a bit for each granule: it cannot fill, it is sorted, a request made twice is one,
// and opposite ones cancel, since what counts is how the granule stands when the batch comes.
//
// In the deferred way a block of granules nearly all of which are stored to opens and closes as one: see guard_blocks.c.
//
// A write that nobody asked for ends the process with a report on standard error, after which the handler that was
// installed before runs. All that the handler reads is C memory that changes without locks.
#ifndef NVM_GUARD_H
#define NVM_GUARD_H

#include <stdint.h>

#include "nvm_thread.h"

#define NVM_GRANULE_SHIFT 16
#define NVM_GRANULE ((uint64_t)1 << NVM_GRANULE_SHIFT)
// 2 MiB: what the processor translates by one entry.
#define NVM_GUARD_BLOCK 32

enum nvm_guard_mode {
  NVM_GUARD_IMMEDIATE = 1,
  NVM_GUARD_DEFERRED = 2,
  NVM_GUARD_KEYS = 3,
};

// What lies at an offset, for the report. `what` is a constant; unknown where null.
struct nvm_guard_owner {
  const char *what;
  uint64_t offset, size;
  int has_tag;  // tag and owner mean something
  uint32_t tag, owner;
  const char *part;  // a part of it that was hit, or null
  uint64_t part_offset, part_size;
};
// Called in the signal handler: may neither allocate nor lock.
typedef void (*nvm_guard_describer)(void *context, uint64_t offset, struct nvm_guard_owner *owner);

struct nvm_guard_counts {
  uint64_t requests;   // closings put into the queue
  uint64_t batches;    // that had something to do
  uint64_t changes;    // calls of mprotect
  uint64_t faults;     // stores to closed granules that were granted
  uint64_t cancelled;  // closings that met a new store or window
  uint64_t ahead;      // granules opened along with the others of their block
  uint64_t widened;    // times the whole mapping was opened, for want of mappings
};

// Immediate: the granules that a thread has stored to since its last fence.
struct nvm_guard_slot {
  uint32_t count;
  uint32_t granule[15];
};

// What the inline paths read.
struct nvm_guard {
  uintptr_t base;
  uint64_t *closing;  // deferred: a bit a granule, set when it was stored to since the last batch; else null
  struct nvm_guard_slot *slots;  // immediate; else null
};

// The mapping [base, base + mapped) is protected from here on; it may grow to `capacity`. The guard keeps `path`.
// 0 or -errno; -ENOSYS where there are no protection keys.
int nvm_guard_create(struct nvm_guard **result, void *base, uint64_t capacity, uint64_t mapped, int mode,
                     uint64_t interval_ns, const char *path);
// Bytes up to `mapped` are mapped, writable, and to be protected.
void nvm_guard_grow(struct nvm_guard *guard, uint64_t mapped);
// Nothing is protected any more, no call of the system touches the mapping. Then the mapping may go.
void nvm_guard_retire(struct nvm_guard *guard);
// After nvm_guard_retire, when no thread uses the guard.
void nvm_guard_free(struct nvm_guard *guard);
// Null takes it away; on return no handler is in it.
void nvm_guard_describe(struct nvm_guard *guard, nvm_guard_describer describer, void *context);

// Windows that last until they are taken back, by any thread (keys: by the same). 0 or -errno: -EOVERFLOW, -EINVAL
// for one that was not opened.
int nvm_guard_open(struct nvm_guard *guard, uint64_t offset, uint64_t count);
int nvm_guard_close(struct nvm_guard *guard, uint64_t offset, uint64_t count);
// Carries out what is in the queue; with `all` also what was asked for since the batch before.
void nvm_guard_apply(struct nvm_guard *guard, int all);

void nvm_guard_read_counts(struct nvm_guard *guard, struct nvm_guard_counts *counts);
// Bytes that are writable now (immediate and deferred); approximate while others are at work.
uint64_t nvm_guard_writable(struct nvm_guard *guard);
int nvm_guard_has_keys(void);
// For tests: how many writable stretches the process may have before whole mappings are opened. 0: by the system's limit.
void nvm_guard_limit_stretches(int64_t limit);

// What the calling thread is storing to.
struct nvm_guard_store {
  uintptr_t from, to;
};
extern _Thread_local volatile struct nvm_guard_store nvm_guard_storing;

// Large pages are welcome under these bytes (deferred): the thread of the guard asks the kernel for them, for each block
// that is open as a whole. Advice; true where the caller need not ask itself.
int nvm_guard_want_large(struct nvm_guard *guard, uint64_t offset, uint64_t count);

// A store of an aligned word with release ordering, announced. In the deferred way the handler knows it by where its
// instruction stands, so that nothing is noted.
void nvm_guard_store(struct nvm_guard *guard, void *p, uint64_t word);

void nvm_guard_begin_slow(struct nvm_guard *guard, uint64_t first, uint64_t last);
void nvm_guard_end_slow(struct nvm_guard *guard);
void nvm_guard_settle_slow(struct nvm_guard *guard, struct nvm_guard_slot *slot);

// The calling thread is about to store to [p, p + n), n > 0. No other store of it may begin before the end.
static inline void nvm_guard_begin(struct nvm_guard *guard, const void *p, uint64_t n) {
  nvm_guard_storing.from = (uintptr_t)p;
  nvm_guard_storing.to = (uintptr_t)p + n;
  uint64_t offset = (uintptr_t)p - guard->base;
  uint64_t first = offset >> NVM_GRANULE_SHIFT, last = (offset + n - 1) >> NVM_GRANULE_SHIFT;
  if (__builtin_expect(guard->closing && first == last, 1)) {
    uint64_t word = __atomic_load_n(&guard->closing[first / 64], __ATOMIC_RELAXED);
    if (__builtin_expect(word >> (first % 64) & 1, 1)) return;
  }
  nvm_guard_begin_slow(guard, first, last);
}
static inline void nvm_guard_end(struct nvm_guard *guard) {
  if (__builtin_expect(!guard->closing, 0)) nvm_guard_end_slow(guard);
  nvm_guard_storing.to = 0;
}
// The calling thread has come to an order or a fence.
static inline void nvm_guard_settle(struct nvm_guard *guard) {
  if (!guard->slots) return;
  struct nvm_guard_slot *slot = &guard->slots[nvm_thread_slot()];
  if (slot->count != 0) nvm_guard_settle_slow(guard, slot);
}

#endif
