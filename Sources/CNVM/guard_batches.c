#define _GNU_SOURCE
#include <errno.h>
#include <time.h>

#include "guard_internal.h"

// Closing what nobody stores to any more, many granules at a time; guard.c says why no grant is lost.

struct stretch {
  uint64_t first, end;
};

// Closes a run that the batch has gathered; what cannot be closed now stays in the queue.
static void close_run(struct guard *g, struct stretch *run) {
  if (run->first < run->end && !guard_shut(g, run->first, run->end))
    for (uint64_t i = run->first; i < run->end; i++) guard_note(g, g->ahead, i / 64, 1ull << (i % 64));
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
          while (stop < w * 64 + end && guard_has_window(g, stop) && !guard_is_open(g, stop)) stop++;
          if (stop == granule) continue;
          if (!guard_has_many_stretches() && guard_open_run(g, granule, stop) == 0)
            for (uint64_t k = granule; k < stop; k++) guard_note(g, g->ahead, w, 1ull << (k % 64));
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

void *guard_work(void *argument) {
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
