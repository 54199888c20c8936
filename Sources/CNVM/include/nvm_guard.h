// Stray-write protection of a mapping: pages are read-only but where somebody has asked to write.
//
// The mapping is cut into granules. Each has a count of windows: requests to write that have not been taken
// back. Three ways to enforce it:
//
//   immediate  pages change with each first window and each last one, by mprotect
//   deferred   a window takes effect when the first write faults and the handler finds it. Closing is put off: a
//              thread takes the requests in batches and protects what nobody has asked for since the batch before
//   keys       one protection key for the mapping; a window is the calling thread's own and costs no system call
//
// The queue of the deferred way is a bit for each granule: it cannot fill, it is sorted, a request made twice is one,
// and opposite ones cancel, since what counts is the granule's windows when the batch comes.
//
// A write without a window ends the process with a report on standard error, after which the handler that was
// installed before runs. All that the handler reads is C memory that changes without locks.
#ifndef NVM_GUARD_H
#define NVM_GUARD_H

#include <stdint.h>

#include "nvm_thread.h"

#define NVM_GRANULE_SHIFT 16
#define NVM_GRANULE ((uint64_t)1 << NVM_GRANULE_SHIFT)

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
  uint64_t faults;     // writes that came before the batch and were granted
  uint64_t cancelled;  // closings that met a new window
  uint64_t widened;    // times the whole mapping was opened, for want of mappings
};

// The granules that a thread has written to since its last fence, with a window each.
struct nvm_guard_slot {
  uint32_t last;  // granule + 1 of the last store; 0: none
  uint32_t count;
  uint32_t granule[14];
};

// What the inline paths read.
struct nvm_guard {
  uintptr_t base;
  struct nvm_guard_slot *slots;
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

int nvm_guard_touch_slow(struct nvm_guard *guard, uint64_t first, uint64_t last);
void nvm_guard_done(struct nvm_guard *guard, const void *p, uint64_t n);
void nvm_guard_settle_slow(struct nvm_guard *guard, struct nvm_guard_slot *slot);

// The calling thread is about to store to [p, p + n), n > 0. The window lasts until its next nvm_guard_settle; where
// the result is not 0, until nvm_guard_done, which must follow the store.
static inline int nvm_guard_touch(struct nvm_guard *guard, const void *p, uint64_t n) {
  uint64_t offset = (uintptr_t)p - guard->base;
  uint64_t first = offset >> NVM_GRANULE_SHIFT;
  uint64_t last = (offset + n - 1) >> NVM_GRANULE_SHIFT;
  if (__builtin_expect(first == last && guard->slots[nvm_thread_slot()].last == first + 1, 1)) return 0;
  return nvm_guard_touch_slow(guard, first, last);
}

// The calling thread's stores are done.
static inline void nvm_guard_settle(struct nvm_guard *guard) {
  struct nvm_guard_slot *slot = &guard->slots[nvm_thread_slot()];
  if (slot->count != 0) nvm_guard_settle_slow(guard, slot);
}

#endif
