#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

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

static bool is_open(struct guard *g, uint64_t granule) {
  return granule < g->granules && (atomic_load(&g->open[granule / 64]) >> (granule % 64) & 1) != 0;
}
static void count_stretches(struct guard *g, int64_t change) {
  atomic_fetch_add(&g->stretches, change);
  atomic_fetch_add(&all_stretches, change);
}
// Where stretches begin in [first, end].
static int64_t stretches_in(struct guard *g, uint64_t first, uint64_t end) {
  int64_t count = 0;
  bool before = first > 0 && is_open(g, first - 1);
  for (uint64_t i = first; i <= end; i++) {
    bool now = is_open(g, i);
    count += now && !before;
    before = now;
  }
  return count;
}
// What opening [first, end) where all is closed, or closing it where all is open, changes.
static int64_t stretches_joined(struct guard *g, uint64_t first, uint64_t end) {
  return 1 - (first > 0 && is_open(g, first - 1)) - is_open(g, end);
}

// MARK: The queue

// Requests of one word of a bitmap.
static void note(struct guard *g, _Atomic uint64_t *bitmap, uint64_t word, uint64_t bits) {
  uint64_t added = bits & ~atomic_fetch_or(&bitmap[word], bits);
  if (added == 0) return;
  atomic_fetch_add_explicit(&g->count_requests, (uint64_t)__builtin_popcountll(added), memory_order_relaxed);
  // Seen set, the batch has still to take it, and after it the word.
  uint64_t summary = 1ull << (word % 64);
  if (!(atomic_load(&g->pending[word / 64]) & summary)) atomic_fetch_or(&g->pending[word / 64], summary);
  if (atomic_load(&g->asleep) && atomic_exchange(&g->asleep, 0)) sem_post(&g->wake);
}
void guard_enqueue(struct guard *g, uint64_t granule) {
  note(g, g->closing, granule / 64, 1ull << (granule % 64));
}

// MARK: Pages

// Of granules [first, end), as far as they are mapped. 0 or -errno.
static int change(struct guard *g, uint64_t first, uint64_t end, int protection) {
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
  int result = change(g, 0, n, PROT_READ | PROT_WRITE);
  if (result != 0) return result;
  atomic_fetch_add(&g->count_widened, 1);
  count_stretches(g, 1 - atomic_load(&g->stretches));
  for (uint64_t i = 0; i < n; i++) {
    atomic_fetch_or(&g->open[i / 64], 1ull << (i % 64));
    if (g->mode == NVM_GUARD_DEFERRED) note(g, g->ahead, i / 64, 1ull << (i % 64));
  }
  return 0;
}

int guard_open_run(struct guard *g, uint64_t first, uint64_t end) {
  int result = change(g, first, end, PROT_READ | PROT_WRITE);
  if (result != 0) return result;
  int64_t before = stretches_in(g, first, end);
  for (uint64_t i = first; i < end; i++) atomic_fetch_or(&g->open[i / 64], 1ull << (i % 64));
  count_stretches(g, stretches_in(g, first, end) - before);
  return 0;
}

int guard_grant(struct guard *g, uint64_t granule) {
  if (atomic_load(&all_stretches) >= atomic_load(&stretch_limit) && !is_open(g, granule)) return widen(g);
  uint64_t first = granule, end = granule + 1;
  if (g->mode == NVM_GUARD_DEFERRED) guard_grant_range(g, granule, &first, &end);
  int result = guard_open_run(g, first, end);
  if (result == -ENOMEM) return widen(g);
  if (result != 0 || g->mode != NVM_GUARD_DEFERRED) return result;
  // A block is a part of one word.
  if (end - first > 1) {
    atomic_fetch_add_explicit(&g->count_ahead, end - first - 1, memory_order_relaxed);
    note(g, g->ahead, granule / 64, ((1ull << (end - first)) - 1) << (first % 64) & ~(1ull << (granule % 64)));
  }
  guard_enqueue(g, granule);
  return 0;
}

// Protects [first, end), none of which has a window. Returns whether it is done.
static bool shut(struct guard *g, uint64_t first, uint64_t end) {
  int64_t joined = stretches_joined(g, first, end);
  if (joined < 0 && atomic_load(&all_stretches) >= atomic_load(&stretch_limit)) return false;
  for (uint64_t i = first; i < end; i++) atomic_fetch_and(&g->open[i / 64], ~(1ull << (i % 64)));
  if (change(g, first, end, PROT_READ) == 0) {
    count_stretches(g, -joined);
    return true;
  }
  for (uint64_t i = first; i < end; i++) atomic_fetch_or(&g->open[i / 64], 1ull << (i % 64));
  return false;
}

// MARK: Batches

struct stretch {
  uint64_t first, end;
};

// Closes a run that the batch has gathered; what cannot be closed now stays in the queue.
static void close_run(struct guard *g, struct stretch *run) {
  if (run->first < run->end && !shut(g, run->first, run->end))
    for (uint64_t i = run->first; i < run->end; i++) note(g, g->ahead, i / 64, 1ull << (i % 64));
  run->first = run->end = 0;
}

// One batch; under the lock. Returns whether anything is left for the next one.
static bool batch(struct guard *g, bool all) {
  uint64_t words = (guard_mapped_granules(g) + 63) / 64;
  bool isLeft = false, isBatch = false;
  struct stretch run = {0, 0};
  for (uint64_t s = 0; s * 64 < words; s++) {
    uint64_t taken = atomic_load(&g->pending[s]) ? atomic_exchange(&g->pending[s], 0) : 0;
    uint64_t todo = taken | g->pending_rest[s];
    if (todo == 0) continue;
    isBatch = true;
    uint64_t rest = 0;
    for (; todo; todo &= todo - 1) {
      uint64_t w = s * 64 + (uint64_t)__builtin_ctzll(todo);
      for (uint64_t opening = atomic_exchange(&g->opening[w], 0); opening;) {
        uint64_t first = (uint64_t)__builtin_ctzll(opening), end = first;
        // Opposite requests have cancelled where no window is left.
        while (end < 64 && (opening >> end & 1)) opening &= ~(1ull << end++);
        for (uint64_t i = first; i < end; i++) {
          uint64_t granule = w * 64 + i, stop = granule;
          while (stop < w * 64 + end && guard_has_window(g, stop) && !is_open(g, stop)) stop++;
          if (stop == granule) continue;
          if (atomic_load(&all_stretches) < atomic_load(&stretch_limit) && guard_open_run(g, granule, stop) == 0)
            for (uint64_t k = granule; k < stop; k++) note(g, g->ahead, w, 1ull << (k % 64));
          i = stop - w * 64 - 1;
        }
      }
      uint64_t closing = atomic_exchange(&g->closing[w], 0);
      atomic_fetch_add_explicit(&g->count_cancelled, (uint64_t)__builtin_popcountll(g->resting[w] & closing),
                                memory_order_relaxed);
      uint64_t ahead = atomic_exchange(&g->ahead[w], 0);
      uint64_t found = closing | ahead;
      uint64_t idle = all ? g->resting[w] | found : g->resting[w] & ~found;
      uint64_t kept = guard_review_blocks(g, w, closing, ahead, idle, all);
      idle &= ~kept;
      g->resting[w] = all ? 0 : found | kept;
      if (g->resting[w]) rest |= 1ull << (w % 64);
      for (; idle; idle &= idle - 1) {
        uint64_t granule = w * 64 + (uint64_t)__builtin_ctzll(idle);
        if (guard_has_window(g, granule)) {  // comes back when that closes
          atomic_fetch_add_explicit(&g->count_cancelled, 1, memory_order_relaxed);
          continue;
        }
        if (run.end == granule && run.first < run.end) {
          run.end++;
          continue;
        }
        close_run(g, &run);
        run.first = granule;
        run.end = granule + 1;
      }
    }
    g->pending_rest[s] = rest;
    if (rest) isLeft = true;
  }
  close_run(g, &run);
  if (isBatch) atomic_fetch_add(&g->count_batches, 1);
  return isLeft;
}

static bool has_pending(struct guard *g) {
  uint64_t words = (guard_mapped_granules(g) + 63) / 64;
  for (uint64_t s = 0; s * 64 < words; s++)
    if (atomic_load(&g->pending[s])) return true;
  return false;
}

static void *work(void *argument) {
  struct guard *g = argument;
  pthread_setname_np(pthread_self(), "nvm-guard");
  while (!atomic_load(&g->stop)) {
    pthread_mutex_lock(&g->lock);
    bool isLeft = !atomic_load(&g->retired) && batch(g, false);
    pthread_mutex_unlock(&g->lock);
    if (!isLeft) {
      // Whoever sets a bit after this sees `asleep`; whoever set one before is seen here.
      atomic_store(&g->asleep, 1);
      if (!has_pending(g) && !atomic_load(&g->stop)) {
        while (sem_wait(&g->wake) != 0) {
        }
        continue;
      }
      atomic_store(&g->asleep, 0);
    }
    // Only the end cuts the interval short: calls that came while this thread went to sleep are not for now.
    while (sem_trywait(&g->wake) == 0) {
    }
    if (atomic_load(&g->stop)) break;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + g->interval_ns;
    until.tv_sec += (time_t)(ns / 1000000000);
    until.tv_nsec = (long)(ns % 1000000000);
    while (sem_clockwait(&g->wake, CLOCK_MONOTONIC, &until) != 0 && errno == EINTR) {
    }
  }
  return 0;
}

void nvm_guard_apply(struct nvm_guard *guard, int all) {
  struct guard *g = (struct guard *)guard;
  if (g->mode != NVM_GUARD_DEFERRED || guard_is_forked(g)) return;
  pthread_mutex_lock(&g->lock);
  if (!atomic_load(&g->retired)) batch(g, all != 0);
  pthread_mutex_unlock(&g->lock);
}

// MARK: Windows

static void open_window(struct guard *g, uint64_t granule, uint32_t weight) {
  if (g->mode == NVM_GUARD_DEFERRED) {
    atomic_fetch_add(&g->windows[granule], weight);
    return;
  }
  if (guard_is_forked(g)) return;
  pthread_mutex_lock(&g->lock);
  // A failed change is left to the handler, which tries again.
  if (atomic_fetch_add(&g->windows[granule], weight) == 0 && !atomic_load(&g->retired)) guard_grant(g, granule);
  pthread_mutex_unlock(&g->lock);
}

static void close_window(struct guard *g, uint64_t granule, uint32_t weight) {
  if (g->mode == NVM_GUARD_DEFERRED) {
    if (atomic_fetch_sub(&g->windows[granule], weight) == weight) guard_enqueue(g, granule);
    return;
  }
  if (guard_is_forked(g)) return;
  pthread_mutex_lock(&g->lock);
  if (atomic_fetch_sub(&g->windows[granule], weight) == weight && !atomic_load(&g->retired))
    shut(g, granule, granule + 1);
  pthread_mutex_unlock(&g->lock);
}

// In the immediate way a window on one granule is kept until the thread's next fence; not what many threads share, and
// what would push all else out.
static bool is_kept(int32_t slot, uint64_t first, uint64_t last) { return slot != 0 && first == last; }

void nvm_guard_begin_slow(struct nvm_guard *guard, uint64_t first, uint64_t last) {
  struct guard *g = (struct guard *)guard;
  if (g->mode == NVM_GUARD_KEYS) {
    if (!guard_is_forked(g)) guard_key_open(g->key);
    return;
  }
  if (g->mode == NVM_GUARD_DEFERRED) {
    for (uint64_t i = first; i <= last; i++) guard_enqueue(g, i);
    return;
  }
  int32_t index = nvm_thread_slot();
  if (!is_kept(index, first, last)) {
    for (uint64_t i = first; i <= last; i++) open_window(g, i, 1);
    return;
  }
  struct nvm_guard_slot *s = &guard->slots[index];
  const uint32_t room = sizeof s->granule / sizeof s->granule[0];
  for (uint32_t i = 0; i < s->count; i++)
    if (s->granule[i] == first) return;
  if (s->count == room) {
    // The oldest gives way; its stores are done.
    close_window(g, s->granule[0], 1);
    memmove(s->granule, s->granule + 1, sizeof s->granule - sizeof s->granule[0]);
    s->count--;
  }
  open_window(g, first, 1);
  s->granule[s->count++] = (uint32_t)first;
}

void nvm_guard_end_slow(struct nvm_guard *guard) {
  struct guard *g = (struct guard *)guard;
  if (g->mode == NVM_GUARD_KEYS) {
    guard_key_close(g->key);
    return;
  }
  uint64_t first = (nvm_guard_storing.from - guard->base) >> NVM_GRANULE_SHIFT;
  uint64_t last = (nvm_guard_storing.to - 1 - guard->base) >> NVM_GRANULE_SHIFT;
  if (is_kept(nvm_thread_slot(), first, last)) return;
  for (uint64_t i = first; i <= last; i++) close_window(g, i, 1);
}

void nvm_guard_settle_slow(struct nvm_guard *guard, struct nvm_guard_slot *s) {
  for (uint32_t i = 0; i < s->count; i++) close_window((struct guard *)guard, s->granule[i], 1);
  s->count = 0;
}

int nvm_guard_open(struct nvm_guard *guard, uint64_t offset, uint64_t count) {
  struct guard *g = (struct guard *)guard;
  if (count == 0) return 0;
  if (g->mode == NVM_GUARD_KEYS) {
    if (!guard_is_forked(g)) guard_key_open(g->key);
    return 0;
  }
  uint64_t first = offset >> NVM_GRANULE_SHIFT, last = (offset + count - 1) >> NVM_GRANULE_SHIFT;
  for (uint64_t i = first; i <= last; i++) {
    if (atomic_load(&g->windows[i]) >= 0xF000u * EXPLICIT_WINDOW) {
      while (i-- > first) close_window(g, i, EXPLICIT_WINDOW);
      return -EOVERFLOW;
    }
    open_window(g, i, EXPLICIT_WINDOW);
    if (g->mode == NVM_GUARD_DEFERRED && !is_open(g, i)) note(g, g->opening, i / 64, 1ull << (i % 64));
  }
  return 0;
}

int nvm_guard_close(struct nvm_guard *guard, uint64_t offset, uint64_t count) {
  struct guard *g = (struct guard *)guard;
  if (count == 0) return 0;
  if (g->mode == NVM_GUARD_KEYS) {
    guard_key_close(g->key);
    return 0;
  }
  uint64_t first = offset >> NVM_GRANULE_SHIFT, last = (offset + count - 1) >> NVM_GRANULE_SHIFT;
  for (uint64_t i = first; i <= last; i++)
    if (atomic_load(&g->windows[i]) < EXPLICIT_WINDOW) return -EINVAL;
  for (uint64_t i = first; i <= last; i++) close_window(g, i, EXPLICIT_WINDOW);
  return 0;
}

// MARK: Life

int nvm_guard_create(struct nvm_guard **result, void *base, uint64_t capacity, uint64_t mapped, int mode,
                     uint64_t interval_ns, const char *path) {
  if (atomic_load(&stretch_limit) == 0) nvm_guard_limit_stretches(0);
  struct guard *g = calloc(1, sizeof *g);
  if (!g) return -ENOMEM;
  int error = guard_install_handler();
  g->mode = mode;
  g->key = -1;
  g->interval_ns = interval_ns;
  g->fork_generation = nvm_fork_generation();
  g->seen.base = (uintptr_t)base;
  g->path = strdup(path);
  atomic_store(&g->mapped, mapped);
  g->granules = (capacity + NVM_GRANULE - 1) >> NVM_GRANULE_SHIFT;
  // Address space; memory is taken where it is touched.
  uint64_t words = g->granules / 64 + 1, summaries = words / 64 + 1;
  uint64_t slots = mode != NVM_GUARD_IMMEDIATE ? 0 : NVM_THREAD_SLOTS * sizeof(struct nvm_guard_slot);
  uint64_t windows = (g->granules * sizeof(uint32_t) + 63) & ~63ull;
  g->memory_size = slots + windows + 6 * words * 8 + 2 * summaries * 8 + words * (64 / NVM_GUARD_BLOCK);
  if (!error && g->path)
    g->memory = mmap(0, g->memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (error || !g->path || g->memory == MAP_FAILED) {
    free((void *)g->path);
    free(g);
    return error ? error : -ENOMEM;
  }
  char *at = g->memory;
  if (mode == NVM_GUARD_IMMEDIATE) g->seen.slots = (void *)at;
  g->windows = (void *)(at += slots);
  g->closing = (void *)(at += windows);
  if (mode == NVM_GUARD_DEFERRED) g->seen.closing = (void *)at;
  g->opening = (void *)(at += words * 8);
  g->open = (void *)(at += words * 8);
  g->ahead = (void *)(at += words * 8);
  g->touched = (void *)(at += words * 8);
  g->resting = (void *)(at += words * 8);
  g->pending = (void *)(at += words * 8);
  g->pending_rest = (void *)(at += summaries * 8);
  g->blocks = (void *)(at += summaries * 8);
  pthread_mutex_init(&g->lock, 0);
  sem_init(&g->wake, 0, 0);

  if (mode == NVM_GUARD_KEYS) {
    error = g->key = guard_key_make();
    if (error >= 0) error = guard_key_apply(g->key, base, mapped);
  }
  if (error >= 0) error = guard_register(g);
  if (error >= 0 && mode != NVM_GUARD_KEYS) error = change(g, 0, g->granules, PROT_READ);
  if (error >= 0 && mode == NVM_GUARD_DEFERRED) {
    // No signal handler of the application may run on this thread.
    sigset_t every, before;
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 128 << 10);
    error = -pthread_create(&g->thread, &attributes, work, g);
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, 0);
    g->has_thread = error == 0;
  }
  if (error < 0) {
    nvm_guard_retire(&g->seen);
    nvm_guard_free(&g->seen);
    return error;
  }
  *result = &g->seen;
  return 0;
}

void nvm_guard_grow(struct nvm_guard *guard, uint64_t mapped) {
  struct guard *g = (struct guard *)guard;
  uint64_t old = atomic_load(&g->mapped);
  if (g->mode == NVM_GUARD_KEYS) guard_key_apply(g->key, (void *)(guard->base + old), mapped - old);
  pthread_mutex_lock(&g->lock);
  atomic_store(&g->mapped, mapped);
  uint64_t first = old >> NVM_GRANULE_SHIFT, end = (mapped + NVM_GRANULE - 1) >> NVM_GRANULE_SHIFT;
  for (uint64_t i = first; i < end && !atomic_load(&g->retired); i++) {
    if (g->mode == NVM_GUARD_IMMEDIATE && !guard_has_window(g, i)) change(g, i, i + 1, PROT_READ);
    if (g->mode != NVM_GUARD_DEFERRED) continue;
    if (!is_open(g, i)) {
      count_stretches(g, stretches_joined(g, i, i + 1));
      atomic_fetch_or(&g->open[i / 64], 1ull << (i % 64));
    }
    note(g, g->ahead, i / 64, 1ull << (i % 64));
  }
  pthread_mutex_unlock(&g->lock);
}

void nvm_guard_retire(struct nvm_guard *guard) {
  struct guard *g = (struct guard *)guard;
  if (guard_is_forked(g)) {
    // The locks may be held by threads that this process does not have, and the pages are its own.
    atomic_store(&g->retired, true);
    guard_unregister(g);
    return;
  }
  pthread_mutex_lock(&g->lock);
  bool was = atomic_exchange(&g->retired, true);
  if (!was && g->mode != NVM_GUARD_KEYS) change(g, 0, guard_mapped_granules(g), PROT_READ | PROT_WRITE);
  pthread_mutex_unlock(&g->lock);
  if (was) return;
  if (g->mode == NVM_GUARD_KEYS && g->key >= 0) {
    guard_key_apply(0, (void *)guard->base, atomic_load(&g->mapped));
    guard_key_drop(g->key);
  }
  guard_unregister(g);
  atomic_fetch_sub(&all_stretches, atomic_load(&g->stretches));
  if (g->has_thread) {
    atomic_store(&g->stop, true);
    sem_post(&g->wake);
    pthread_join(g->thread, 0);
  }
}

void nvm_guard_free(struct nvm_guard *guard) {
  struct guard *g = (struct guard *)guard;
  if (!guard_is_forked(g)) {
    pthread_mutex_destroy(&g->lock);
    sem_destroy(&g->wake);
  }
  munmap(g->memory, g->memory_size);
  free((void *)g->path);
  free(g);
}

void nvm_guard_describe(struct nvm_guard *guard, nvm_guard_describer describer, void *context) {
  struct guard *g = (struct guard *)guard;
  if (describer) atomic_store(&g->describer_context, context);
  atomic_store(&g->describer, describer);
  if (!describer) guard_wait_for_handlers();
}

// MARK: Figures

void nvm_guard_read_counts(struct nvm_guard *guard, struct nvm_guard_counts *counts) {
  struct guard *g = (struct guard *)guard;
  counts->requests = atomic_load(&g->count_requests);
  counts->batches = atomic_load(&g->count_batches);
  counts->changes = atomic_load(&g->count_changes);
  counts->faults = atomic_load(&g->count_faults);
  counts->cancelled = atomic_load(&g->count_cancelled);
  counts->ahead = atomic_load(&g->count_ahead);
  counts->widened = atomic_load(&g->count_widened);
}

uint64_t nvm_guard_writable(struct nvm_guard *guard) {
  struct guard *g = (struct guard *)guard;
  uint64_t granules = guard_mapped_granules(g), sum = 0;
  for (uint64_t w = 0; w * 64 < granules && !atomic_load(&g->retired); w++)
    sum += (uint64_t)__builtin_popcountll(atomic_load(&g->open[w])) << NVM_GRANULE_SHIFT;
  return sum;
}
