#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "guard_internal.h"

int nvm_guard_create(struct nvm_guard **result, void *base, uint64_t capacity, uint64_t mapped, int mode,
                     uint64_t interval_ns, const char *path) {
  guard_learn_limit();
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
  if (error >= 0 && mode != NVM_GUARD_KEYS) error = guard_change(g, 0, g->granules, PROT_READ);
  if (error >= 0 && mode == NVM_GUARD_DEFERRED) {
    // No signal handler of the application may run on this thread.
    sigset_t every, before;
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 128 << 10);
    error = -pthread_create(&g->thread, &attributes, guard_work, g);
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
    if (g->mode == NVM_GUARD_IMMEDIATE && !guard_has_window(g, i)) guard_change(g, i, i + 1, PROT_READ);
    if (g->mode == NVM_GUARD_DEFERRED) guard_granule_is_new(g, i);
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
  if (!was && g->mode != NVM_GUARD_KEYS) guard_change(g, 0, guard_mapped_granules(g), PROT_READ | PROT_WRITE);
  pthread_mutex_unlock(&g->lock);
  if (was) return;
  if (g->mode == NVM_GUARD_KEYS && g->key >= 0) {
    guard_key_apply(0, (void *)guard->base, atomic_load(&g->mapped));
    guard_key_drop(g->key);
  }
  guard_unregister(g);
  guard_forget_stretches(g);
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
