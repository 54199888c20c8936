#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>

#include "guard_internal.h"

// Why no grant is lost: pages change by mprotect alone, which the kernel carries out one after the other. A batch
// protects granules that nobody has stored to for an interval and that have no window; when a store comes meanwhile,
// either it is there before the pages are read-only, or it faults after that and is granted. What a grant has made
// writable it puts into the queue afterwards, and the end of a last window does so too: so whatever is writable is in
// the queue, has a window, or was found in the queue by the batch before.
// (The queue is `closing` and `ahead`; what a batch has found there, or leaves open, is in `resting`.)

_Thread_local volatile struct nvm_guard_store nvm_guard_storing;

// MARK: Stretches of writable granules
//
// Each border between writable and read-only pages costs the process a mapping, of which vm.max_map_count allows
// 65,530 by default. A quarter of them may be ours; beyond, a grant opens its whole mapping (which makes one
// mapping of it), and batches close nothing that would add a stretch.

static _Atomic int64_t all_stretches;
static _Atomic int64_t stretch_limit;

static int64_t system_limit(void) {
  int64_t maps = 65530;
  FILE *f = fopen("/proc/sys/vm/max_map_count", "r");
  if (f) {
    long long value;
    if (fscanf(f, "%lld", &value) == 1 && value > 0) maps = value;
    fclose(f);
  }
  // A stretch costs two mappings.
  return maps / 8;
}
void nvm_guard_limit_stretches(int64_t limit) { atomic_store(&stretch_limit, limit > 0 ? limit : system_limit()); }
void guard_learn_limit(void) {
  if (atomic_load(&stretch_limit) == 0) nvm_guard_limit_stretches(0);
}
bool guard_has_many_stretches(void) { return atomic_load(&all_stretches) >= atomic_load(&stretch_limit); }

static void count_stretches(struct guard *g, int64_t change) {
  atomic_fetch_add(&g->stretches, change);
  atomic_fetch_add(&all_stretches, change);
}
// Where stretches begin in [first, end].
static int64_t stretches_in(struct guard *g, uint64_t first, uint64_t end) {
  int64_t count = 0;
  bool before = first > 0 && guard_is_open(g, first - 1);
  for (uint64_t i = first; i <= end; i++) {
    bool now = guard_is_open(g, i);
    count += now && !before;
    before = now;
  }
  return count;
}
// What opening [first, end) where all is closed, or closing it where all is open, changes.
static int64_t stretches_joined(struct guard *g, uint64_t first, uint64_t end) {
  return 1 - (first > 0 && guard_is_open(g, first - 1)) - guard_is_open(g, end);
}

// MARK: The queue

void guard_note(struct guard *g, _Atomic uint64_t *bitmap, uint64_t word, uint64_t bits) {
  uint64_t added = bits & ~atomic_fetch_or(&bitmap[word], bits);
  if (added == 0) return;
  atomic_fetch_add_explicit(&g->count_requests, (uint64_t)__builtin_popcountll(added), memory_order_relaxed);
  // Seen set, the batch has still to take it, and after it the word.
  uint64_t summary = 1ull << (word % 64);
  if (!(atomic_load(&g->pending[word / 64]) & summary)) atomic_fetch_or(&g->pending[word / 64], summary);
  if (atomic_load(&g->asleep) && atomic_exchange(&g->asleep, 0)) sem_post(&g->wake);
}
void guard_enqueue(struct guard *g, uint64_t granule) {
  guard_note(g, g->closing, granule / 64, 1ull << (granule % 64));
}

// MARK: Pages

int guard_change(struct guard *g, uint64_t first, uint64_t end, int protection) {
  uint64_t mapped = atomic_load(&g->mapped), from = first << NVM_GRANULE_SHIFT, to = end << NVM_GRANULE_SHIFT;
  if (to > mapped) to = mapped;
  if (from >= to) return 0;
  atomic_fetch_add(&g->count_changes, 1);
  guard_blocks_changed(g, first, end);
  return mprotect((void *)(g->seen.base + from), to - from, protection) == 0 ? 0 : -errno;
}

// Opens everything and leaves it to the batches to close what has no windows.
static int widen(struct guard *g) {
  uint64_t n = guard_mapped_granules(g);
  int result = guard_change(g, 0, n, PROT_READ | PROT_WRITE);
  if (result != 0) return result;
  atomic_fetch_add(&g->count_widened, 1);
  count_stretches(g, 1 - atomic_load(&g->stretches));
  for (uint64_t i = 0; i < n; i++) {
    atomic_fetch_or(&g->open[i / 64], 1ull << (i % 64));
    if (g->mode == NVM_GUARD_DEFERRED) guard_note(g, g->ahead, i / 64, 1ull << (i % 64));
  }
  return 0;
}

int guard_open_run(struct guard *g, uint64_t first, uint64_t end) {
  int result = guard_change(g, first, end, PROT_READ | PROT_WRITE);
  if (result != 0) return result;
  int64_t before = stretches_in(g, first, end);
  for (uint64_t i = first; i < end; i++) atomic_fetch_or(&g->open[i / 64], 1ull << (i % 64));
  count_stretches(g, stretches_in(g, first, end) - before);
  return 0;
}

int guard_grant(struct guard *g, uint64_t granule) {
  if (guard_has_many_stretches() && !guard_is_open(g, granule)) return widen(g);
  uint64_t first = granule, end = granule + 1;
  if (g->mode == NVM_GUARD_DEFERRED) guard_grant_range(g, granule, &first, &end);
  int result = guard_open_run(g, first, end);
  if (result == -ENOMEM) return widen(g);
  if (result != 0 || g->mode != NVM_GUARD_DEFERRED) return result;
  // A block is a part of one word.
  if (end - first > 1) {
    atomic_fetch_add_explicit(&g->count_ahead, end - first - 1, memory_order_relaxed);
    guard_note(g, g->ahead, granule / 64, ((1ull << (end - first)) - 1) << (first % 64) & ~(1ull << (granule % 64)));
  }
  guard_enqueue(g, granule);
  return 0;
}

bool guard_shut(struct guard *g, uint64_t first, uint64_t end) {
  int64_t joined = stretches_joined(g, first, end);
  if (joined < 0 && guard_has_many_stretches()) return false;
  for (uint64_t i = first; i < end; i++) atomic_fetch_and(&g->open[i / 64], ~(1ull << (i % 64)));
  if (guard_change(g, first, end, PROT_READ) == 0) {
    count_stretches(g, -joined);
    return true;
  }
  for (uint64_t i = first; i < end; i++) atomic_fetch_or(&g->open[i / 64], 1ull << (i % 64));
  return false;
}

void guard_granule_is_new(struct guard *g, uint64_t granule) {
  if (!guard_is_open(g, granule)) {
    count_stretches(g, stretches_joined(g, granule, granule + 1));
    atomic_fetch_or(&g->open[granule / 64], 1ull << (granule % 64));
  }
  guard_note(g, g->ahead, granule / 64, 1ull << (granule % 64));
}

void guard_forget_stretches(struct guard *g) { atomic_fetch_sub(&all_stretches, atomic_load(&g->stretches)); }
